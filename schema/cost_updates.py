"""Running totals of what is spent."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import strawberry
from strawberry import field

from app.costs import cost_updates
from resolvers import cost_updates as resolve
from schema.costs import CostTotals
from schema.describes import describes
from schema.streams import Heartbeat, StreamEvent


@describes(cost_updates.CostUpdate, description="The totals have changed.")
class CostUpdate(StreamEvent):
    totals: CostTotals = field(description="Totals of all calls that match the filter, until now.")


CostUpdateEvent: TypeAlias = Annotated[
    CostUpdate | Heartbeat,
    strawberry.union("CostUpdateEvent", description="New totals, or a heartbeat after 15 seconds without a change."),
]


@strawberry.type
class CostSubscriptions:
    cost_updates = strawberry.field(
        resolver=resolve.cost_updates,
        is_subscription=True,
        graphql_type=CostUpdateEvent,
        description="Running totals of a scope, at most one event per interval. The first event has the current totals.",
    )
