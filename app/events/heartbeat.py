"""The event of a stream in which nothing happened."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

HEARTBEAT_SECONDS: Final = 15.0
"""The longest silence of a stream."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Everything before the cursor has been delivered."""

    cursor: str
    at: datetime
