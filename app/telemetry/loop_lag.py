"""How late the event loop is. A lag of seconds means that the process has more to do than it can: every answer waits for it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram

from app.runtime.clock import Clock

_PAUSE_SECONDS = 0.25
_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class LoopLag:
    def __init__(self, clock: Clock, registry: CollectorRegistry) -> None:
        self._clock = clock
        self._seconds = Histogram(
            "greenlang_event_loop_lag_seconds",
            "How much later than asked a timer of the event loop fires.",
            registry=registry,
            buckets=_BUCKETS,
        )

    async def run_maintenance(self) -> None:
        """Measures until it is cancelled."""
        while True:
            begun = self._clock.monotonic()
            await self._clock.sleep(_PAUSE_SECONDS)
            self._seconds.observe(max(0.0, self._clock.monotonic() - begun - _PAUSE_SECONDS))
