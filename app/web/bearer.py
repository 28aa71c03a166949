"""The key in `Authorization: Bearer sk-…`."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.errors import RefusedKey, Unauthenticated


def bearer_token(headers: Mapping[str, str]) -> str:
    """Returns the token of the `authorization` header (names in lower case). Raises Unauthenticated if there is none."""
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        reason = RefusedKey.MALFORMED if scheme else RefusedKey.MISSING
        raise Unauthenticated("no key: send `Authorization: Bearer sk-…`", reason)
    return token
