from __future__ import annotations

from typing import Annotated

import strawberry
from strawberry import ID, UNSET

from app.access.visibility import may_see, visible_tenant
from app.costs.forecast import CostForecast
from app.costs.queries import CostDimension, CostQuery
from app.costs.reports import CostReport, UsageRecord
from app.domain.ids import parse_id
from app.domain.paging import Page
from resolvers.info import Info
from resolvers.inputs import costs as inputs
from resolvers.inputs.checks import check_length, check_texts
from resolvers.inputs.paging import After, First, page_request

_MAX_LABEL_KEY_LENGTH = 64


async def costs(
    info: Info,
    wanted: Annotated[inputs.CostFilter, strawberry.argument(name="filter", description="Which costs.")],
    *,
    group_by: Annotated[
        list[CostDimension] | None, strawberry.argument(description="Up to three dimensions. Omit to get totals only.")
    ] = UNSET,
    label_key: Annotated[str | None, strawberry.argument(description="With LABEL: which label.")] = UNSET,
    order_by: Annotated[inputs.CostOrder | None, strawberry.argument(description="Omit to sort by cost, highest first.")] = UNSET,
    first: First = UNSET,
    after: After = UNSET,
) -> CostReport:
    key = label_key if isinstance(label_key, str) else None
    check_texts(key, ("labelKey",))
    check_length(key, _MAX_LABEL_KEY_LENGTH, ("labelKey",))
    order = (order_by or inputs.CostOrder()).to_domain()
    where = wanted.to_domain(info.context.principal)
    return await info.context.services.reports.costs(
        CostQuery(where, tuple(group_by or ()), key, order, page_request(first, after))
    )


async def cost_forecast(
    info: Info,
    wanted: Annotated[
        inputs.CostFilter, strawberry.argument(name="filter", description="Which costs. The period may be in the future.")
    ],
) -> CostForecast | None:
    return await info.context.services.forecasts.costs(wanted.to_domain(info.context.principal))


async def usage_records(
    info: Info,
    wanted: Annotated[inputs.CostFilter, strawberry.argument(name="filter", description="Which records.")],
    first: First = UNSET,
    after: After = UNSET,
) -> Page[UsageRecord]:
    where = wanted.to_domain(info.context.principal)
    return await info.context.services.reports.records(where, page_request(first, after))


async def usage_record(info: Info, record_id: ID) -> UsageRecord | None:
    key, principal = parse_id("use", record_id), info.context.principal
    if key is None:
        return None
    found = await info.context.services.reports.record(key, visible_tenant(principal))
    return found if found is not None and may_see(principal, found.tenant, found.agent) else None
