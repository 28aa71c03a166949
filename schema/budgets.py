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


@describes(budgets.BudgetScope, description="Whose spending counts; what is null matches all.")
class BudgetScope:
    tenant: str | None = field(description="This tenant's; null: all tenants together.")
    agent: str | None = field(description="Only this agent's.")
    provider: str | None = field(description="Only calls that this provider answers.")
    model: str | None = field(description="Only calls of this model.")
    label: Label | None = field(description="Only calls with this label.")


@describes(budgets.Budget, description="A limit on spending in a period, and what became of it in the running one.")
class Budget(Node):
    name: str = field(description="For people; unique among the owner's budgets in the scope's tenant.")
    scope: BudgetScope = field(description="Whose spending counts.")
    limit_usd: Decimal = field(description='How much may be spent in a period, such as `"250"`.')
    period: BudgetPeriod = field(description="After which time it starts anew.")
    time_zone: str = field(description="Where days and months begin, such as `Europe/Berlin`.")
    thresholds: list[int] = field(description="Percent of the limit. An alert is raised at each, once a period.")
    enforcement: BudgetEnforcement = field(description="What happens to a call that the budget cannot pay for.")
    owner: BudgetOwner = field(description="Who set the budget, and so may change it.")
    spent_usd: Decimal = field(description="Settled in the running period.")
    held_usd: Decimal = field(description="Held by calls that are running.")
    remaining_usd: Decimal = field(description="What is neither spent nor held; never below zero.")
    period_start: datetime = field(description="When the running period began.")
    period_end: datetime | None = field(description="Null for TOTAL. When the next period begins otherwise.")
    forecast_usd = strawberry.field(
        resolver=resolve.forecast_usd,
        description="Spend expected by the period's end; null where nothing can be said, as for TOTAL or without history.",
    )
    version: int = field(description="Counts the changes; `expectedVersion` guards against lost ones.")
    deleted_at: datetime | None = field(description="Deleted budgets keep their history and enforce nothing. Null otherwise.")


@describes(budgets.BudgetExceeded, description="A budget cannot pay for the call; nothing was sent to a provider.")
class BudgetExceeded(Problem):
    message: str = strawberry.field(resolver=resolve.exceeded_message, description="A sentence for people; wording may change.")
    budget = strawberry.field(
        resolver=resolve.exceeded_budget, graphql_type=Budget | None, description="Null where the caller may not see it."
    )
    needed_usd: Decimal = field(description="The least that the call may cost at its worst.")
    remaining_usd: Decimal | None = strawberry.field(
        resolver=resolve.exceeded_remaining, description="What the budget has left; null where the caller may not see it."
    )


BudgetCreateResult: TypeAlias = Annotated[
    Budget | InvalidInput | Conflict,
    strawberry.union("BudgetCreateResult", description="The budget made, or why there is none."),
]

BudgetUpdateResult: TypeAlias = Annotated[
    Budget | NotFound | Conflict | InvalidInput,
    strawberry.union("BudgetUpdateResult", description="The budget as it is now, or why it was not changed."),
]
BudgetDeleteResult: TypeAlias = Annotated[
    Deleted | NotFound,
    strawberry.union("BudgetDeleteResult", description="What is gone, or that there was nothing."),
]


@strawberry.type
class BudgetQueries:
    budget = strawberry.field(
        resolver=resolve.budget, graphql_type=Budget | None, description="A budget by its id, a deleted one too."
    )
    budgets = strawberry.field(
        resolver=resolve.budgets,
        graphql_type=Connection[Budget] | None,
        description="Budgets that the caller may see, by tenant and name; deleted ones are left out.",
    )


@strawberry.type
class BudgetMutations:
    budget_create = strawberry.field(
        resolver=resolve.budget_create,
        graphql_type=BudgetCreateResult | None,
        description="Make a budget; it counts what was spent since its period began.",
    )
    budget_update = strawberry.field(
        resolver=resolve.budget_update,
        graphql_type=BudgetUpdateResult | None,
        description="Change a budget; it acts at once and rewrites no history. FORBIDDEN if another owner set it.",
    )
    budget_delete = strawberry.field(
        resolver=resolve.budget_delete,
        graphql_type=BudgetDeleteResult | None,
        description="Delete a budget: it keeps its history and enforces nothing from now on. FORBIDDEN if another owner "
        "set it; a configured default needs ADMIN and is not made again.",
    )
