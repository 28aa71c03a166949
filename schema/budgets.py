"""Budgets: whose spending counts, and how much it may be."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, TypeAlias

import strawberry
from strawberry import field

from app.costs import budgets
from app.costs.budgets import BudgetEnforcement, BudgetOwner, BudgetPeriod
from resolvers import budgets as resolve
from schema.describes import describes
from schema.pagination import Connection
from schema.problems import Conflict, InvalidInput, NotFound, Problem
from schema.values import Deleted, Label, Node


@describes(budgets.BudgetScope, description="Whose spending counts. A null field matches everything.")
class BudgetScope:
    tenant: str | None = field(description="Only this tenant's. Null: all tenants together.")
    agent: str | None = field(description="Only this agent's.")
    provider: str | None = field(description="Only calls that this provider answered.")
    model: str | None = field(description="Only calls of this model.")
    label: Label | None = field(description="Only calls with this label.")


@describes(budgets.Budget, description="A limit on spending per period, with the amounts of the current period.")
class Budget(Node):
    name: str = field(description="A name for people, unique among the owner's budgets in the scope's tenant.")
    scope: BudgetScope = field(description="Whose spending counts.")
    limit_usd: Decimal = field(description='How much may be spent in a period, such as `"250"`.')
    period: BudgetPeriod = field(description="How often the budget starts again from zero.")
    time_zone: str = field(description="The time zone of its days and months, such as `Europe/Berlin`.")
    thresholds: list[int] = field(description="Percent of the limit. An alert is raised at each, once a period.")
    enforcement: BudgetEnforcement = field(description="What happens to a call that the budget cannot pay for.")
    owner: BudgetOwner = field(description="Who set the budget, and so may change it.")
    spent_usd: Decimal = field(description="Settled in the current period.")
    held_usd: Decimal = field(description="Held for running calls.")
    remaining_usd: Decimal = field(description="The amount that is neither spent nor held. Never below zero.")
    period_start: datetime = field(description="When the current period started.")
    period_end: datetime | None = field(description="When the next period starts. Null for TOTAL.")
    forecast_usd = strawberry.field(
        resolver=resolve.forecast_usd,
        description="Spend expected by the period's end. Null if it cannot be predicted, as for TOTAL or without history.",
    )
    version: int = field(description="Increases with every change. Pass it as `expectedVersion` to avoid lost updates.")
    deleted_at: datetime | None = field(
        description="When it was deleted, else null. Deleted budgets keep their history and enforce nothing."
    )


@describes(budgets.BudgetExceeded, description="A budget cannot pay for the call; nothing was sent to a provider.")
class BudgetExceeded(Problem):
    message: str = strawberry.field(resolver=resolve.exceeded_message, description="A sentence for people; wording may change.")
    budget = strawberry.field(
        resolver=resolve.exceeded_budget, graphql_type=Budget | None, description="Null if the caller may not see it."
    )
    needed_usd: Decimal = field(description="The smallest worst-case cost of the call: with its minimum of output tokens.")
    remaining_usd: Decimal | None = strawberry.field(
        resolver=resolve.exceeded_remaining, description="What the budget has left. Null if the caller may not see it."
    )


BudgetCreateResult: TypeAlias = Annotated[
    Budget | InvalidInput | Conflict,
    strawberry.union("BudgetCreateResult", description="The new budget, or the reason why there is none."),
]

BudgetUpdateResult: TypeAlias = Annotated[
    Budget | NotFound | Conflict | InvalidInput,
    strawberry.union("BudgetUpdateResult", description="The budget after the change, or the reason why it was not changed."),
]
BudgetDeleteResult: TypeAlias = Annotated[
    Deleted | NotFound,
    strawberry.union("BudgetDeleteResult", description="The id of the deleted budget, or NotFound."),
]


@strawberry.type
class BudgetQueries:
    budget = strawberry.field(
        resolver=resolve.budget, graphql_type=Budget | None, description="Fetch a budget by its id, also a deleted one."
    )
    budgets = strawberry.field(
        resolver=resolve.budgets,
        graphql_type=Connection[Budget] | None,
        description="Budgets that the caller may see, sorted by tenant and name, without deleted ones.",
    )


@strawberry.type
class BudgetMutations:
    budget_create = strawberry.field(
        resolver=resolve.budget_create,
        graphql_type=BudgetCreateResult | None,
        description="Create a budget. It counts everything spent since its period started.",
    )
    budget_update = strawberry.field(
        resolver=resolve.budget_update,
        graphql_type=BudgetUpdateResult | None,
        description="Change a budget. The change takes effect at once and does not alter history. FORBIDDEN if "
        "another owner set it.",
    )
    budget_delete = strawberry.field(
        resolver=resolve.budget_delete,
        graphql_type=BudgetDeleteResult | None,
        description="Delete a budget. It keeps its history and no longer enforces anything. FORBIDDEN if another "
        "owner set it. A configured default needs ADMIN and is not created again.",
    )
