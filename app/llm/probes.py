"""Whether a provider is up. It is asked every 30 seconds with its cheapest request, unless its own traffic already shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from random import Random

from app.domain.errors import FailureKind, ProviderError
from app.llm.failures import unforeseen
from app.llm.provider import Provider
from app.llm.resilience.breaker import BreakerStatus
from app.runtime.clock import Clock

EVERY_SECONDS = 30.0
_JITTER = 0.2
TIMEOUT_SECONDS = 10.0
_FAILURES_TO_BE_DOWN = 2


class HealthStatus(Enum):
    UP = "UP"
    DEGRADED = "DEGRADED"
    DOWN = "DOWN"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class HealthChanged:
    provider: str
    health: HealthStatus
    at: datetime


class Monitor:
    """One provider's health, from its probes and its breakers. A breaker that may send its own probe counts as HALF_OPEN."""

    def __init__(
        self,
        provider: Provider,
        breakers: Callable[[], list[BreakerStatus]],
        changed: Callable[[HealthChanged], None],
        clock: Clock,
        random: Random,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._provider = provider
        self._breakers = breakers
        self._changed = changed
        self._clock = clock
        self._random = random
        self._timeout_seconds = timeout_seconds
        self._failures: int | None = None
        self._published = HealthStatus.UNKNOWN
        self.checked_at: datetime | None = None

    @property
    def health(self) -> HealthStatus:
        """DOWN if every model's breaker is open or if probes fail again and again. DEGRADED if one probe failed or only some
        breakers are open, or if a breaker is half open."""
        breakers = set(self._breakers())
        failures = self._failures
        if breakers == {BreakerStatus.OPEN} or (failures is not None and failures >= _FAILURES_TO_BE_DOWN):
            return HealthStatus.DOWN
        if failures or not breakers <= {BreakerStatus.CLOSED}:
            return HealthStatus.DEGRADED
        return HealthStatus.UNKNOWN if failures is None else HealthStatus.UP

    async def run(self) -> None:
        """Probes at once, then every 30 s ± 20 %, so that the processes do not probe together. Runs until it is cancelled."""
        while True:
            if BreakerStatus.OPEN not in self._breakers():
                await self.probe()
            await self._clock.sleep(EVERY_SECONDS * (1 + _JITTER * (2 * self._random.random() - 1)))

    async def probe(self) -> None:
        """Probes once. Changes nothing if our own calls use every connection."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._provider.probe()
        except Exception as error:  # noqa: BLE001  # a probe that ends for ever would leave the health as it was last
            if isinstance(error, ProviderError) and error.kind is FailureKind.POOL_EXHAUSTED:
                return
            if not isinstance(error, (ProviderError, TimeoutError)):
                unforeseen(error, self._provider.name)
            self._failures = (self._failures or 0) + 1
        else:
            self._failures = 0
        self.checked_at = self._clock.now()
        self.publish_health()

    def publish_health(self) -> None:
        """Publishes the health if it has changed."""
        health = self.health
        if health is not self._published:
            self._published = health
            self._changed(HealthChanged(self._provider.name, health, self._clock.now()))
