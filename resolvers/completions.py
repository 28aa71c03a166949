from __future__ import annotations

from typing import Annotated

import strawberry
from strawberry import ID

from app.completions import Completion
from app.costs.budgets import BudgetExceeded
from app.ids import parse_id
from app.llm.routing import ProvidersFailed, RateLimited
from app.problems import Conflict, InvalidInput
from resolvers.info import Info
from resolvers.inputs.completions import CompletionInput
from resolvers.refusals import refusals


@refusals(BudgetExceeded, RateLimited, ProvidersFailed, InvalidInput, Conflict)
async def completion_create(
    info: Info,
    request: Annotated[CompletionInput, strawberry.argument(name="input", description="The call to make.")],
) -> Completion:
    return await info.context.services.gateway.complete(request.to_domain(), info.context.principal)


async def completion(
    info: Info,
    completion_id: Annotated[ID, strawberry.argument(name="id", description="Such as `cmp_0199f2c1a4b87c3d9e1f5a6b7c8d9e0f`.")],
) -> Completion | None:
    key, principal = parse_id("cmp", completion_id), info.context.principal
    found = None if key is None else await info.context.services.gateway.completion(key, principal)
    return found if found is not None and principal.agent in {None, found.agent} else None
