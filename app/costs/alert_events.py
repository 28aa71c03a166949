"""Alerts as they are raised, to whoever follows: each once and in one order, also across a disconnect.

A cursor is a position in the log of events. One reader a process feeds all who follow.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from app.clock import Clock
from app.costs.alerts import AlertStore, BudgetAlert, BudgetAlertFilter
from app.events.heartbeat import Heartbeat
from app.events.relay import Relay
from app.events.topics import Arrived, Lost, Placed, decode_position, encode_position

TOPIC = "budget_alert"
_CURSOR = "alertEvents"


@dataclass(frozen=True, slots=True)
class BudgetAlertRaised:
    """`replayed`: raised before the subscriber joined."""

    cursor: str
    at: datetime
    alert: BudgetAlert
    replayed: bool


@dataclass(frozen=True, slots=True)
class BudgetAlertsMissed:
    """The cursor is older than the kept history, or not of this history."""

    cursor: str
    at: datetime
    oldest_kept_at: datetime


BudgetAlertEvent: TypeAlias = BudgetAlertRaised | BudgetAlertsMissed | Heartbeat


class BudgetAlertEvents:
    def __init__(self, alerts: AlertStore, relay: Relay, clock: Clock) -> None:
        self._alerts = alerts
        self._clock = clock
        self._topic = relay.topic(TOPIC, self._load)

    async def follow(self, where: BudgetAlertFilter, after: str | None) -> AsyncGenerator[BudgetAlertEvent, None]:
        """From behind the cursor or from now on: first what was missed, then a heartbeat, then alerts as they are raised, with a
        heartbeat in between every 15 seconds. Raises Refused(InvalidInput) and StoreUnavailable."""
        async with aclosing(self._topic.follow(decode_position(_CURSOR, after), where.tenant)) as steps:
            async for step in steps:
                cursor = encode_position(_CURSOR, step.position)
                if isinstance(step, Lost):
                    yield BudgetAlertsMissed(cursor, self._clock.now(), step.oldest_kept_at)
                elif not isinstance(step, Arrived):
                    yield Heartbeat(cursor, self._clock.now())
                elif where.matches(step.event):
                    yield BudgetAlertRaised(cursor, step.event.raised_at, step.event, step.replayed)

    async def _load(self, rows: Sequence[Placed]) -> list[BudgetAlert | None]:
        found = await self._alerts.by_keys([row.key for row in rows])
        return [found.get(row.key) for row in rows]
