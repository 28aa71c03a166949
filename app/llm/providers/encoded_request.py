from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """A body, and the headers for this request alone."""

    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
