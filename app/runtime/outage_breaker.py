"""Spares callers the wait for a server that is away.

After three failures in a row every call is refused at once, except one try per pause. The pause doubles with each failed try.
"""

from __future__ import annotations

from app.runtime.clock import Clock

_FAILURES = 3


class OutageBreaker:
    def __init__(self, clock: Clock, *, first_pause: float, max_pause: float) -> None:
        """The pauses are in seconds."""
        self._clock = clock
        self._first_pause = first_pause
        self._max_pause = max_pause
        self._pause = first_pause
        self._failures = 0
        self._closed_until = 0.0

    @property
    def available(self) -> bool:
        """False while every call is refused at once."""
        return not self._is_open or self._clock.monotonic() >= self._closed_until

    def admit(self) -> bool:
        """Whether a call may go out now. During an outage the one that may keeps others from trying for a pause."""
        if not self.available:
            return False
        if self._is_open:
            self._closed_until = self._clock.monotonic() + self._pause
        return True

    def failed(self) -> bool:
        """Counts a failure. Returns whether the outage begins with it."""
        self._failures += 1
        if not self._is_open:
            return False
        self._closed_until = self._clock.monotonic() + self._pause
        self._pause = min(self._max_pause, self._pause * 2)
        return self._failures == _FAILURES

    def succeeded(self) -> bool:
        """Counts a success. Returns whether an outage ends with it."""
        ended = self._is_open
        self._failures = 0
        self._pause = self._first_pause
        return ended

    @property
    def _is_open(self) -> bool:
        return self._failures >= _FAILURES
