"""Alerts: each threshold of a budget, once per period."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, TypeAlias

import strawberry
from strawberry import field

from app.access.audience import Audience
from app.costs import alert_events, alerts
from resolvers import alerts as resolve
from schema.budgets import Budget
from schema.describes import describes
from schema.pagination import Connection
from schema.streams import Heartbeat, StreamEvent
from schema.values import Node


@describes(alerts.BudgetAlert, description="Raised once per budget, period and threshold.")
class BudgetAlert(Node):
    budget = strawberry.field(resolver=resolve.budget_of, graphql_type=Budget, description="The budget as it is now.")
    budget_name: str = field(description="The budget's name when the alert was raised.")
    threshold: int = field(description="Percent of the limit that was reached, such as 90.")
    spent_usd: Decimal = field(description="Spent in the period when it was raised.")
    limit_usd: Decimal = field(description="The limit when it was raised.")
    period_start: datetime = field(description="When the period began.")
    raised_at: datetime = field(description="When it was raised.")


@describes(alert_events.BudgetAlertRaised, description="An alert. All subscribers get alerts in the same order.")
class BudgetAlertRaised(StreamEvent):
    alert: BudgetAlert = field(description="The alert itself.")
    replayed: bool = field(description="Raised before the subscriber joined.")


@describes(
    alert_events.BudgetAlertsMissed,
    description="The cursor is older than the kept history; query budgetAlerts for the gap.",
)
class BudgetAlertsMissed(StreamEvent):
    oldest_kept_at: datetime = field(description="The time of the oldest alert that is still kept.")


BudgetAlertEvent: TypeAlias = Annotated[
    BudgetAlertRaised | BudgetAlertsMissed | Heartbeat,
    strawberry.union("BudgetAlertEvent", description="An event of the stream of budget alerts."),
]


@strawberry.type
class AlertQueries:
    budget_alerts = strawberry.field(
        resolver=resolve.budget_alerts,
        graphql_type=Connection[BudgetAlert] | None,
        description="Alerts already raised, newest first.",
    )


@strawberry.type
class AlertSubscriptions:
    budget_alerts = strawberry.field(
        resolver=resolve.budget_alert_events,
        is_subscription=True,
        graphql_type=BudgetAlertEvent,
        description="Alerts as they are raised. With a cursor, first the missed ones. In order, each once.",
        metadata={"broadcast": Audience.TENANT, "joined": resolve.greet},
    )
