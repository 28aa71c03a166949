"""An id in the API is a kind and a time-ordered UUID: `cmp_0199…`. A text of another kind or form is treated as not found."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


def new_uuid(now: datetime) -> UUID:
    """A version 7 UUID (RFC 9562): 48 bits of milliseconds, then 74 random bits."""
    value = int(now.timestamp() * 1000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def format_id(kind: str, value: UUID) -> str:
    return f"{kind}_{value.hex}"


def parse_id(kind: str, text: str) -> UUID | None:
    """Returns the UUID, or None if the text is not an id of this kind."""
    prefix, _, digits = text.partition("_")
    if prefix != kind or len(digits) != 32 or not digits.isascii():
        return None
    try:
        value = UUID(hex=digits)
    except ValueError:
        return None
    return value if value.hex == digits else None


@dataclass(frozen=True, slots=True)
class Deleted:
    """A deleted object, by its id."""

    id: str
