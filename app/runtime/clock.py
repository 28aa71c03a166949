"""Time is passed in. Code that waits, stamps or expires takes a Clock, so tests need no sleep and no patch."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol
from zoneinfo import ZoneInfo

_FILES_BESIDE_ZONES = frozenset({"Factory", "localtime", "posixrules"})
_OTHER_KINDS_OF_ZONES = ("posix/", "right/")
"""Python accepts these names as zones, but PostgreSQL does not know them or they mean another time on another machine."""


class Clock(Protocol):
    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def time_zone(name: str) -> ZoneInfo:
    """Returns the zone with this IANA name. Raises ValueError."""
    if name in _FILES_BESIDE_ZONES or name.startswith(_OTHER_KINDS_OF_ZONES):
        raise ValueError("not the name of a time zone")
    try:
        return ZoneInfo(name)
    except (KeyError, OSError) as error:
        raise ValueError("not the name of a time zone") from error
