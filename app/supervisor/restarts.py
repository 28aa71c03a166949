"""How soon a part that died is started again: at once the first time, then after longer and longer delays, and at once again
after it has run for a long time."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.runtime.clock import Clock

FIRST_SECONDS = 0.5
MAX_SECONDS = 5.0
LONG_LIFE_SECONDS = 30.0


@dataclass(slots=True)
class Restarts:
    clock: Clock
    _started_at: float = field(default=0.0, init=False)
    _deaths: int = field(default=0, init=False)
    _due_at: float | None = field(default=None, init=False)

    def started(self) -> None:
        self._started_at = self.clock.monotonic()
        self._due_at = None

    def died(self) -> None:
        """Sets the time of the next start. A second call before that time changes nothing."""
        if self._due_at is not None:
            return
        now = self.clock.monotonic()
        self._deaths = 1 if now - self._started_at >= LONG_LIFE_SECONDS else self._deaths + 1
        delay = 0.0 if self._deaths == 1 else min(MAX_SECONDS, FIRST_SECONDS * 2.0 ** (self._deaths - 2))
        self._due_at = now + delay

    @property
    def due(self) -> bool:
        return self._due_at is not None and self.clock.monotonic() >= self._due_at
