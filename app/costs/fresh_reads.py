"""Drops kept reports with costs of a tenant when one of its budgets raises an alert, so that they show the spending that did."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

from app.cache.reads import ReadCache
from app.costs.alert_events import TOPIC, BudgetAlertEvents, BudgetAlertRaised, BudgetAlertsMissed
from app.costs.alerts import BudgetAlertFilter
from app.domain.errors import StoreUnavailable
from app.runtime.clock import Clock

BUDGET_ALERT: Final = TOPIC
RETRY_SECONDS: Final = 1.0


class FreshReads:
    def __init__(self, reads: ReadCache, alerts: BudgetAlertEvents, clock: Clock) -> None:
        self._reads = reads
        self._alerts = alerts
        self._clock = clock

    async def run(self) -> None:
        """Follows the alerts of all tenants until it is cancelled."""
        while True:
            try:
                await self._follow()
            except StoreUnavailable:
                self._reads.clear()
            await self._clock.sleep(RETRY_SECONDS)

    async def _follow(self) -> None:
        async with aclosing(self._alerts.follow(BudgetAlertFilter(tenant=None), None)) as events:
            async for event in events:
                if isinstance(event, BudgetAlertRaised):
                    self._reads.happened(BUDGET_ALERT, event.alert.tenant)
                elif isinstance(event, BudgetAlertsMissed):
                    self._reads.clear()
