"""Loaders collect the keys that sibling fields ask for and fetch them with one statement.

Every operation gets a new set, so nothing that one operation has read is shown to another.
"""

from __future__ import annotations

from decimal import Decimal
from functools import cached_property
from uuid import UUID

from aiodataloader import DataLoader

from app.access.principal import Principal
from app.access.visibility import visible_tenant
from app.costs.budgets import Budget
from app.services import Services


class Loaders:
    """Each loader is made at its first use, because most operations need none. They load only what the caller may see."""

    def __init__(self, services: Services, principal: Principal) -> None:
        self._services = services
        self._tenant = visible_tenant(principal)

    @cached_property
    def budget_by_key(self) -> DataLoader[UUID, Budget | None]:
        async def load(keys: list[UUID]) -> list[Budget | None]:
            found = await self._services.budgets.by_keys(keys, self._tenant, primary=True)
            return [found.get(key) for key in keys]

        return DataLoader(load)

    @cached_property
    def forecast_by_budget(self) -> DataLoader[Budget, Decimal | None]:
        async def load(budgets: list[Budget]) -> list[Decimal | None]:
            found = await self._services.forecasts.budgets(budgets)
            return [found.get(budget.key) for budget in budgets]

        return DataLoader(load)
