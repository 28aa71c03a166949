"""What every stream says when it has nothing to say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """All before the cursor has been told."""

    cursor: str
    at: datetime
