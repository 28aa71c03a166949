from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """A body, and the headers for this request alone. `given_back` are names of fields in it that the server itself made."""

    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    given_back: frozenset[str] = frozenset()
