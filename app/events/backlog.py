"""What waits to be sequenced and to be sent, and which budgets are almost spent, as PostgreSQL has it: the same for all
processes, so each shows the whole."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text

from app.db.sessions import Sessions
from app.domain.errors import StoreUnavailable
from app.runtime.clock import Clock
from app.telemetry.read_metrics import ReadMetrics

READ_SECONDS = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BacklogFigures:
    unsequenced: int
    oldest_seconds: float
    due: int
    near_limit: int


class Backlog:
    """The figures are None while PostgreSQL does not answer. `endpoints` are the keys of the configured webhooks; what was to be
    sent to others is never sent."""

    def __init__(self, sessions: Sessions, clock: Clock, endpoints: Sequence[str]) -> None:
        self._sessions = sessions
        self._clock = clock
        self._endpoints = list(endpoints)
        self.figures: BacklogFigures | None = None

    async def run(self) -> None:
        """Reads until it is cancelled."""
        while True:
            await self.read()
            await self._clock.sleep(READ_SECONDS)

    async def read(self) -> None:
        try:
            async with self._sessions.read(primary=True) as session:
                row = (await session.execute(_READ, {"endpoints": self._endpoints})).one()
                self.figures = BacklogFigures(int(row.unsequenced), float(row.oldest_seconds), int(row.due), int(row.near_limit))
        except StoreUnavailable:
            self.figures = None
        except Exception:  # noqa: BLE001 figures must not end with one reading
            self.figures = None
            _log.exception("the backlog of events could not be read")

    def show(self, metrics: ReadMetrics) -> None:
        """Adds the figures to the metrics."""

        def add(name: str, text_: str, field: str) -> None:
            metrics.gauge(name, text_, lambda: [] if self.figures is None else [((), getattr(self.figures, field))])

        add("greenlang_outbox_unsequenced", "Events in PostgreSQL without a position yet.", "unsequenced")
        add(
            "greenlang_outbox_oldest_seconds", "Age of the oldest event without a position; 0 if there is none.", "oldest_seconds"
        )
        add("greenlang_webhooks_due", "Deliveries to webhooks whose time has come, and which no process is sending.", "due")
        add(
            "greenlang_budgets_near_limit",
            "Budgets that have passed 90 percent of their limit, or a higher threshold, within the last hour.",
            "near_limit",
        )


_READ = text(
    "select /* outbox.backlog */ count(*) as unsequenced,"
    " coalesce(greatest(0, extract(epoch from now() - min(created_at))), 0) as oldest_seconds,"
    " (select count(*) from webhook_deliveries"
    " where endpoint = any(:endpoints) and finished_at is null and next_at <= now()) as due,"
    " (select count(distinct budget) from budget_alerts"
    " where threshold >= 90 and raised_at > now() - interval '1 hour') as near_limit"
    " from outbox where position is null"
)
