"""Budget alerts for every follower: each one once and in one order, also after a disconnect.

A cursor is a position in the log of events. One reader per process serves all its followers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import msgspec

from app.costs.alerts import AlertStore, BudgetAlert, BudgetAlertFilter
from app.domain.ids import format_id
from app.domain.money import format_decimal
from app.events.heartbeat import Heartbeat
from app.events.relay import Relay
from app.events.topics import Arrived, Lost, Sequenced, decode_position, encode_position
from app.runtime.clock import Clock

TOPIC = "budget_alert"
_CURSOR = "alertEvents"


@dataclass(frozen=True, slots=True)
class BudgetAlertRaised:
    """`replayed` is True if the alert was raised before the subscriber joined."""

    cursor: str
    at: datetime
    alert: BudgetAlert
    replayed: bool


@dataclass(frozen=True, slots=True)
class BudgetAlertsMissed:
    """The cursor is older than the kept history, or belongs to another history."""

    cursor: str
    at: datetime
    oldest_kept_at: datetime


BudgetAlertEvent: TypeAlias = BudgetAlertRaised | BudgetAlertsMissed | Heartbeat


class BudgetAlertEvents:
    def __init__(self, alerts: AlertStore, relay: Relay, clock: Clock) -> None:
        self._alerts = alerts
        self._clock = clock
        self._topic = relay.topic(TOPIC, BudgetAlert, self._load)
        self.greet = relay.greet

    @property
    def published(self) -> int:
        """How many alerts this process has seen, whichever process raised them."""
        return self._topic.published

    async def follow(self, where: BudgetAlertFilter, after: str | None) -> AsyncGenerator[BudgetAlertEvent, None]:
        """Yields alerts after the cursor, or from now on. First come the missed ones, then a heartbeat, then alerts as they are
        raised, with a heartbeat every 15 seconds. Raises Refused(InvalidInput) and StoreUnavailable."""
        async with aclosing(self._topic.follow(decode_position(_CURSOR, after), where.tenant)) as steps:
            async for step in steps:
                cursor = encode_position(_CURSOR, step.position)
                if isinstance(step, Lost):
                    yield BudgetAlertsMissed(cursor, self._clock.now(), step.oldest_kept_at)
                elif not isinstance(step, Arrived):
                    yield Heartbeat(cursor, self._clock.now())
                elif where.matches(step.event):
                    yield BudgetAlertRaised(cursor, step.event.raised_at, step.event, step.replayed)

    async def payloads(self, keys: Collection[UUID]) -> dict[UUID, bytes]:
        """Returns the bodies that webhooks get for these alerts."""
        return {key: _payload(alert) for key, alert in (await self._alerts.by_keys(keys)).items()}

    async def _load(self, rows: Sequence[Sequenced]) -> list[BudgetAlert | None]:
        found = await self._alerts.by_keys([row.key for row in rows])
        return [found.get(row.key) for row in rows]


def _payload(alert: BudgetAlert) -> bytes:
    return msgspec.json.encode(
        {
            "type": "budget.alert",
            "timestamp": alert.raised_at,
            "data": {
                "id": alert.id,
                "budgetId": format_id("bud", alert.budget_key),
                "budgetName": alert.budget_name,
                "owner": alert.owner.value,
                "tenant": alert.tenant,
                "agent": alert.agent,
                "threshold": alert.threshold,
                "spentUsd": format_decimal(alert.spent_usd),
                "limitUsd": format_decimal(alert.limit_usd),
                "periodStart": alert.period_start,
                "raisedAt": alert.raised_at,
            },
        }
    )
