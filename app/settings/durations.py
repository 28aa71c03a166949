"""Lengths of time as people write them: `250ms`, `30s`, `5m`, `24h`, `7d`, or a number of seconds."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Final

SHAPE: Final = 'a length of time is "250ms", "30s", "5m", "24h", "7d" or a number of seconds'

_WRITTEN = re.compile(r"(\d{1,13}(?:\.\d{1,6})?)\s*(ms|s|m|h|d)?", re.ASCII)
_MICROSECONDS: Final = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
MAX_DURATION: Final = timedelta(days=36_500)


def parse_duration(value: object) -> timedelta:
    """Exact to the microsecond. Raises ValueError, which says how a length of time is written, for anything else, a negative
    value or more than a century."""
    if isinstance(value, timedelta):
        length = value
    elif isinstance(value, (int, float, str)) and not isinstance(value, bool):
        length = _parse_text(format(value, ".6f") if isinstance(value, float) else str(value))
    else:
        raise ValueError(SHAPE)
    if not timedelta(0) <= length <= MAX_DURATION:
        raise ValueError(SHAPE)
    return length


def _parse_text(text: str) -> timedelta:
    written = _WRITTEN.fullmatch(text.strip())
    if written is None:
        raise ValueError(SHAPE)
    microseconds = Decimal(written[1]) * _MICROSECONDS[written[2] or "s"]
    try:
        return timedelta(microseconds=int(microseconds))
    except OverflowError as error:
        raise ValueError(SHAPE) from error


def format_duration(length: timedelta) -> str:
    """Writes it in the largest unit that needs no fraction. parse_duration returns the same length of time."""
    microseconds = length // timedelta(microseconds=1)
    for unit, size in reversed(_MICROSECONDS.items()):
        if microseconds % size == 0:
            return f"{microseconds // size}{unit}"
    return f"{Decimal(microseconds) / 1_000_000}s"
