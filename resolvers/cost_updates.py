from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from typing import Annotated

import strawberry

from app.costs.cost_updates import CostUpdateEvent
from resolvers.info import Info
from resolvers.inputs.costs import CostFilter


async def cost_updates(
    info: Info,
    wanted: Annotated[CostFilter, strawberry.argument(name="filter", description="Which costs.")],
    min_interval_ms: Annotated[
        int, strawberry.argument(description="The shortest time between two events: 100 to 3600000 milliseconds.")
    ] = 1000,
) -> AsyncGenerator[CostUpdateEvent, None]:
    where, interval = wanted.to_domain(info.context.principal), timedelta(milliseconds=min_interval_ms)
    async with aclosing(info.context.services.cost_updates.follow(where, interval)) as events:
        async for event in events:
            yield event
