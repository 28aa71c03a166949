"""The cache of answers: its figures and invalidations."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, TypeAlias

import strawberry
from strawberry import field

from app.cache import figures
from app.domain.usage import CacheTier
from app.gateway import completions
from resolvers import cache as resolve
from resolvers.inputs.enums import describe_enum
from schema.describes import describes
from schema.problems import InvalidInput
from schema.scalars import BigInt

describe_enum(
    CacheTier,
    description="Where a cached answer was found. The nearest tier comes first.",
    values={
        "MEMORY": "The memory of the process.",
        "LOCAL_REDIS": "The Redis beside the process.",
        "SHARED_REDIS": "The Redis that all pods share.",
        "POSTGRES": "The database.",
    },
)


@describes(completions.CacheHit, description="Where a cached answer came from.")
class CacheHit:
    tier: CacheTier = field(description="Where it was found.")
    age_seconds: float = field(description="How long ago it was made.")
    saved_usd: Decimal | None = field(description="What the same call would have cost. Null if unknown.")


@describes(figures.CacheTierStats, description="One tier of the cache.")
class CacheTierStats:
    tier: CacheTier = field(description="Which tier.")
    available: bool = field(description="False if the tier is not configured or its breaker is open.")
    hits: BigInt = field(description="Look-ups that this tier answered.")
    misses: BigInt = field(description="Look-ups that reached this tier and that it could not answer.")
    hit_rate: float | None = field(description="`hits` / (`hits` + `misses`). Null without look-ups.")
    entries: BigInt | None = field(description="Entries of all tenants. Null if the tier cannot say.")
    bytes: BigInt | None = field(description="Size of these entries. Null if the tier cannot say.")
    evictions: BigInt = field(description="Entries that were removed to make room.")
    latency_p50_ms: float | None = field(description="Median time of a look-up in the process that answers.")
    latency_p95_ms: float | None = field(description="95 of 100 look-ups took at most this time.")


@describes(figures.CacheStats, description="Cache statistics over all running processes.")
class CacheStats:
    hits: BigInt = field(description="Answers that came from a tier.")
    misses: BigInt = field(description="Look-ups that no tier could answer.")
    hit_rate: float | None = field(description="`hits` / (`hits` + `misses`). Null without look-ups.")
    saved_usd: Decimal = field(description="What the answers from the cache would have cost.")
    tiers: list[CacheTierStats] = field(description="Every tier, the nearest first.")


@describes(resolve.CacheInvalidated, description="What was invalidated.")
class CacheInvalidated:
    entries: BigInt = field(description="Distinct keys that were found in the tiers that this process reaches.")


CacheInvalidateResult: TypeAlias = Annotated[
    CacheInvalidated | InvalidInput,
    strawberry.union("CacheInvalidateResult", description="How much was invalidated, or why nothing was."),
]


@strawberry.type
class CacheQueries:
    cache_stats = strawberry.field(
        resolver=resolve.cache_stats,
        graphql_type=CacheStats | None,
        description="Cache statistics for the caller's tenant, or for all tenants with the scope ADMIN.",
    )


@strawberry.type
class CacheMutations:
    cache_invalidate = strawberry.field(
        resolver=resolve.cache_invalidate,
        graphql_type=CacheInvalidateResult | None,
        description="Invalidate stored answers. They are never returned again. When this mutation has answered, its process "
        "returns nothing older.",
    )
