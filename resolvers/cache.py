from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import strawberry

from app.access.principal import Scope
from app.cache.figures import CacheStats
from app.domain.problems import InvalidInput
from resolvers.info import Info
from resolvers.inputs.cache import CacheInvalidateInput
from resolvers.refusals import refusals


@dataclass(frozen=True, slots=True)
class CacheInvalidated:
    entries: int


async def cache_stats(info: Info) -> CacheStats:
    principal = info.context.principal
    return await info.context.services.cache.stats(None if principal.may(Scope.ADMIN) else principal.tenant)


@refusals(InvalidInput)
async def cache_invalidate(
    info: Info,
    request: Annotated[CacheInvalidateInput, strawberry.argument(name="input", description="Which answers to invalidate.")],
) -> CacheInvalidated:
    cache, tenant = info.context.services.cache, info.context.principal.tenant
    return CacheInvalidated(await cache.invalidate(tenant, request.select.to_domain(), dry_run=request.dry_run))
