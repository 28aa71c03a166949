"""The event of a stream in which nothing happened."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Everything before the cursor has been delivered."""

    cursor: str
    at: datetime
