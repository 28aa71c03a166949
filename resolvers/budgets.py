from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import strawberry
from strawberry import ID, UNSET, Parent

from app.access.principal import Principal, Scope
from app.costs.budgets import Budget, BudgetExceeded
from app.ids import parse_id
from app.paging import Page
from app.problems import Conflict, InvalidInput
from resolvers.info import Info
from resolvers.inputs.budgets import BudgetCreateInput, BudgetFilter, budget_filter
from resolvers.inputs.paging import After, First, page_request
from resolvers.refusals import refusals


@refusals(InvalidInput, Conflict)
async def budget_create(
    info: Info,
    request: Annotated[BudgetCreateInput, strawberry.argument(name="input", description="The budget to make.")],
) -> Budget:
    return await info.context.services.budgets.create(request.to_domain(info.context.principal))


async def budget(
    info: Info,
    budget_id: Annotated[ID, strawberry.argument(name="id", description="Such as `bud_0199f2c1a4b87c3d9e1f5a6b7c8d9e0f`.")],
) -> Budget | None:
    key = parse_id("bud", budget_id)
    found = None if key is None else await info.context.loaders.budget_by_key.load(key)
    return found if found is not None and may_see(found, info.context.principal) else None


async def budgets(
    info: Info,
    wanted: Annotated[BudgetFilter | None, strawberry.argument(name="filter", description="Left out: all there are.")] = UNSET,
    first: First = UNSET,
    after: After = UNSET,
) -> Page[Budget]:
    principal = info.context.principal
    where = wanted.to_domain(principal) if wanted else budget_filter(principal)
    return await info.context.services.budgets.page(where, page_request(first, after))


def may_see(found: Budget, principal: Principal) -> bool:
    """A budget of the caller's tenant, and of the caller's agent where the key is bound to one."""
    if principal.may(Scope.ADMIN):
        return True
    own_agent = principal.agent is None or principal.agent == found.scope.agent
    return principal.may(Scope.BUDGETS) and found.scope.tenant == principal.tenant and own_agent


def exceeded_budget(root: Parent[BudgetExceeded], info: Info) -> Budget | None:
    return root.budget if may_see(root.budget, info.context.principal) else None


def exceeded_message(root: Parent[BudgetExceeded], info: Info) -> str:
    return root.message if may_see(root.budget, info.context.principal) else "A budget cannot pay for the call."


def exceeded_remaining(root: Parent[BudgetExceeded], info: Info) -> Decimal | None:
    return root.remaining_usd if may_see(root.budget, info.context.principal) else None
