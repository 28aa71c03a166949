"""Changes of health and breakers. They are published to the followers in all processes, in one order, and a follower can
resume.

Every process watches the providers itself. If several notice the same change, it is published once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

import msgspec
from sqlalchemy import text

from app.db.sessions import Sessions
from app.domain.errors import StoreUnavailable
from app.events.heartbeat import Heartbeat
from app.events.relay import Relay
from app.events.topics import Arrived, Sequenced, decode_position, encode_position
from app.llm.fleet import BreakerChanged, Fleet, FleetEvent, ProviderStatus
from app.llm.probes import HealthChanged, HealthStatus
from app.llm.resilience.breaker import BreakerStatus
from app.runtime.clock import Clock

TOPIC = "provider"
MAX_WAITING = 1000
RETRY_SECONDS = 1.0
_CURSOR = "providerEvents"
_log = logging.getLogger(__name__)


class _Change(msgspec.Struct, frozen=True):
    """`model` and `breaker` are None for a change of health."""

    provider: str
    model: str | None
    breaker: BreakerStatus | None
    health: HealthStatus
    at: datetime


@dataclass(frozen=True, slots=True)
class ProviderChanged:
    """`provider` is the state that this process sees now. `health` and `breaker` are the states after the change."""

    cursor: str
    at: datetime
    provider: ProviderStatus
    model: str | None
    breaker: BreakerStatus | None
    health: HealthStatus


ProviderEvent: TypeAlias = ProviderChanged | Heartbeat


class ProviderEvents:
    def __init__(self, fleet: Fleet, sessions: Sessions, relay: Relay, clock: Clock) -> None:
        self._fleet = fleet
        self._sessions = sessions
        self._clock = clock
        self._topic = relay.topic(TOPIC, _Change, _load)
        self.greet = relay.greet
        self._noticed: deque[_Change] = deque(maxlen=MAX_WAITING)
        self._any_noticed = asyncio.Event()
        fleet.listen(self._notice)

    async def follow(self, after: str | None) -> AsyncGenerator[ProviderEvent, None]:
        """Yields the changes after the cursor, or from now on. Raises Refused(InvalidInput) and StoreUnavailable."""
        async with aclosing(self._topic.follow(decode_position(_CURSOR, after), None)) as steps:
            async for step in steps:
                cursor = encode_position(_CURSOR, step.position)
                if not isinstance(step, Arrived):
                    yield Heartbeat(cursor, self._clock.now())
                    continue
                change = step.event
                provider = self._fleet.provider(change.provider)
                if provider is not None:
                    yield ProviderChanged(cursor, change.at, provider, change.model, change.breaker, change.health)

    async def run(self) -> None:
        """Publishes the changes noticed here until it is cancelled. While the database is away, changes wait; if too many wait,
        the oldest are dropped."""
        while True:
            await self._any_noticed.wait()
            self._any_noticed.clear()
            while self._noticed:
                change = self._noticed[0]
                try:
                    await self._publish(change)
                except StoreUnavailable:
                    _log.warning("changes of providers are published later: PostgreSQL does not answer")
                    await self._clock.sleep(RETRY_SECONDS)
                    continue
                if self._noticed and self._noticed[0] is change:
                    self._noticed.popleft()

    def _notice(self, event: FleetEvent) -> None:
        if isinstance(event, HealthChanged):
            self._noticed.append(_Change(event.provider, None, None, event.health, event.at))
        elif isinstance(event, BreakerChanged):
            status = self._fleet.provider(event.provider)
            health = HealthStatus.UNKNOWN if status is None else status.health
            self._noticed.append(_Change(event.provider, event.model, event.breaker.status, health, event.at))
        else:
            return
        self._any_noticed.set()

    async def _publish(self, change: _Change) -> None:
        state = change.health if change.breaker is None else change.breaker
        async with self._sessions.statements() as session:
            await session.execute(
                _PUBLISH,
                {
                    "provider": change.provider,
                    "model": change.model or "",
                    "state": state.value,
                    "event": msgspec.json.encode(change).decode(),
                },
            )


_PUBLISH = text(
    "select /* provider_events.publish */ provider_changed(:provider, :model, :state, cast(cast(:event as text) as jsonb))"
)


async def _load(rows: Sequence[Sequenced]) -> list[_Change | None]:
    return [msgspec.convert(row.payload, _Change) for row in rows]
