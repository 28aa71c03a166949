"""An id in the API is a kind and a time-ordered UUID: `cmp_0199…`. A text of another kind or form is treated as not found."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

_VERSION_AND_VARIANT = 0x7 << 76 | 0x2 << 62
_RANDOM_BITS = (1 << 76) - 1 & ~(0x3 << 62)


def new_uuid(now: datetime) -> UUID:
    """A version 7 UUID (RFC 9562): 48 bits of milliseconds, then 74 random bits."""
    return new_uuids(now, 1)[0]


def new_uuids(now: datetime, count: int) -> list[UUID]:
    """So many version 7 UUIDs of one time, in no order among themselves."""
    fixed, random = int(now.timestamp() * 1000) << 80 | _VERSION_AND_VARIANT, os.urandom(10 * count)
    drawn = (int.from_bytes(random[start : start + 10]) for start in range(0, len(random), 10))
    return [UUID(int=fixed | each & _RANDOM_BITS) for each in drawn]


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
