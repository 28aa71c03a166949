from __future__ import annotations

from decimal import Decimal
from typing import Annotated, TypeAlias
from uuid import UUID

import strawberry
from strawberry import ID, UNSET, Parent

from app.access.principal import Principal, Scope
from app.access.visibility import may_see
from app.costs.budgets import NO_SUCH_BUDGET, Budget, BudgetExceeded
from app.domain.errors import Refused
from app.domain.ids import Deleted, parse_id
from app.domain.paging import Page
from app.domain.problems import Conflict, InvalidInput, NotFound
from resolvers.info import Info
from resolvers.inputs.budgets import BudgetCreateInput, BudgetFilter, BudgetUpdateInput, budget_authority, budget_filter
from resolvers.inputs.paging import After, First, page_request
from resolvers.refusals import refusals

BudgetId: TypeAlias = Annotated[ID, strawberry.argument(name="id", description="Such as `bud_0199f2c1a4b87c3d9e1f5a6b7c8d9e0f`.")]


@refusals(InvalidInput, Conflict)
async def budget_create(
    info: Info,
    request: Annotated[BudgetCreateInput, strawberry.argument(name="input", description="The budget to create.")],
) -> Budget:
    return await info.context.services.budgets.create(request.to_domain(info.context.principal))


@refusals(NotFound, Conflict, InvalidInput)
async def budget_update(
    info: Info,
    request: Annotated[BudgetUpdateInput, strawberry.argument(name="input", description="What is to change.")],
) -> Budget:
    change = request.to_domain()
    return await info.context.services.budgets.update(_key(request.id), change, budget_authority(info.context.principal))


@refusals(NotFound)
async def budget_delete(info: Info, budget_id: BudgetId) -> Deleted:
    await info.context.services.budgets.delete(_key(budget_id), budget_authority(info.context.principal))
    return Deleted(budget_id)


async def budget(info: Info, budget_id: BudgetId) -> Budget | None:
    key = parse_id("bud", budget_id)
    found = None if key is None else await info.context.loaders.budget_by_key.load(key)
    return found if found is not None and _may_see(found, info.context.principal) else None


async def budgets(
    info: Info,
    wanted: Annotated[BudgetFilter | None, strawberry.argument(name="filter", description="Omit to get all budgets.")] = UNSET,
    first: First = UNSET,
    after: After = UNSET,
) -> Page[Budget]:
    principal = info.context.principal
    where = wanted.to_domain(principal) if wanted else budget_filter(principal)
    return await info.context.services.budgets.page(where, page_request(first, after))


def _key(budget_id: ID) -> UUID:
    """Raises Refused(NotFound)."""
    key = parse_id("bud", budget_id)
    if key is None:
        raise Refused(NO_SUCH_BUDGET)
    return key


def _may_see(found: Budget, principal: Principal) -> bool:
    return principal.may(Scope.BUDGETS_READ) and may_see(principal, found.scope.tenant, found.scope.agent)


async def forecast_usd(root: Parent[Budget], info: Info) -> Decimal | None:
    return await info.context.loaders.forecast_by_budget.load(root)


def exceeded_budget(root: Parent[BudgetExceeded], info: Info) -> Budget | None:
    return root.budget if _may_see(root.budget, info.context.principal) else None


def exceeded_message(root: Parent[BudgetExceeded], info: Info) -> str:
    return root.message if _may_see(root.budget, info.context.principal) else "A budget cannot pay for the call."


def exceeded_remaining(root: Parent[BudgetExceeded], info: Info) -> Decimal | None:
    return root.remaining_usd if _may_see(root.budget, info.context.principal) else None
