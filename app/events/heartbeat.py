"""The event of a stream in which nothing happened."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

HEARTBEAT_SECONDS: Final = 15.0
"""A stream is silent for at most this long."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Everything before the cursor has been delivered."""

    cursor: str
    at: datetime
