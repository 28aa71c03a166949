from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, TypeAlias

import strawberry
from strawberry import ID, UNSET, Parent

from app.access.visibility import may_see, visible_tenant
from app.context import OperationContext
from app.costs.alert_events import BudgetAlertEvent
from app.costs.alerts import BudgetAlert
from app.costs.budgets import Budget
from app.domain.ids import parse_id
from app.domain.paging import Page
from resolvers.info import Info
from resolvers.inputs.alerts import BudgetAlertFilter, alert_filter
from resolvers.inputs.paging import After, First, Resume, page_request

Wanted: TypeAlias = Annotated[
    BudgetAlertFilter | None, strawberry.argument(name="filter", description="Omit to get everything that the caller may see.")
]


async def budget_alerts(info: Info, wanted: Wanted = UNSET, first: First = UNSET, after: After = UNSET) -> Page[BudgetAlert]:
    principal = info.context.principal
    where = wanted.to_domain(principal) if wanted else alert_filter(principal)
    return await info.context.services.alerts.page(where, page_request(first, after))


async def budget_alert_events(
    info: Info, wanted: Wanted = UNSET, after: Resume = UNSET
) -> AsyncGenerator[BudgetAlertEvent, None]:
    principal = info.context.principal
    where = wanted.to_domain(principal) if wanted else alert_filter(principal)
    cursor = after if isinstance(after, str) else None
    async with aclosing(info.context.services.alert_events.follow(where, cursor)) as events:
        async for event in events:
            yield event


async def budget_alert(info: Info, alert_id: ID) -> BudgetAlert | None:
    key, principal = parse_id("alr", alert_id), info.context.principal
    if key is None:
        return None
    found = await info.context.services.alerts.by_key(key, visible_tenant(principal))
    return found if found is not None and may_see(principal, found.tenant, found.agent) else None


async def budget_of(root: Parent[BudgetAlert], info: Info) -> Budget | None:
    return await info.context.loaders.budget_by_key.load(root.budget_key)


def greet(context: OperationContext) -> None:
    context.services.alert_events.greet()
