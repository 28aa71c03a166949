from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """A body, and the headers for this request alone. `given_back` has the names of fields in the body that the server itself
    made."""

    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    given_back: frozenset[str] = frozenset()
