"""Any object by its id. The id's prefix gives its kind, and each kind needs its own scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, TypeAlias

import strawberry
from strawberry import ID

from app.access.principal import Scope
from app.domain.errors import Forbidden
from app.llm.fleet import ProviderStatus
from resolvers.alerts import budget_alert
from resolvers.budgets import budget
from resolvers.completions import completion
from resolvers.costs import usage_record
from resolvers.info import Info
from resolvers.providers import PROVIDER_ID
from resolvers.vectors import collection_node

Find: TypeAlias = Callable[[Info, ID], Awaitable[object | None]]


async def provider(info: Info, provider_id: ID) -> ProviderStatus | None:
    return info.context.services.fleet.provider(provider_id.removeprefix(PROVIDER_ID))


NODES: Mapping[str, tuple[Scope, Find]] = {
    "cmp": (Scope.COMPLETIONS, completion),
    "bud": (Scope.BUDGETS_READ, budget),
    "alr": (Scope.BUDGETS_READ, budget_alert),
    "use": (Scope.COSTS, usage_record),
    "col": (Scope.VECTORS, collection_node),
    "prv": (Scope.PROVIDERS, provider),
}


async def node(
    info: Info,
    node_id: Annotated[ID, strawberry.argument(name="id", description="Such as `cmp_0199f2c1a4b87c3d9e1f5a6b7c8d9e0f`.")],
) -> object | None:
    found = NODES.get(node_id.partition("_")[0])
    if found is None:
        return None
    scope, find = found
    if not info.context.principal.may(scope):
        raise Forbidden(f"this node needs the scope {scope.value}")
    return await find(info, node_id)
