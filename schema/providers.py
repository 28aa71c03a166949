"""Providers, their models and the routes over them."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, TypeAlias

import strawberry
from strawberry import ID, field

from app.llm import fleet, metrics, routing
from app.llm.probes import HealthStatus
from app.llm.resilience import breaker, limiter
from app.llm.resilience.breaker import BreakerStatus
from app.llm.resilience.limiter import LimiterKind
from app.llm.routing import RoutingStrategy
from resolvers import providers as resolve
from resolvers.inputs.enums import describe_enum
from schema.describes import describes
from schema.problems import NotFound, Problem
from schema.scalars import BigInt
from schema.values import Attempt, Node

describe_enum(
    HealthStatus,
    description="Whether a provider can be called.",
    values={
        "UP": "It answers.",
        "DEGRADED": "It answers, but fails sometimes or for some models.",
        "DOWN": "It does not answer.",
        "UNKNOWN": "It was not checked yet.",
    },
)
describe_enum(
    BreakerStatus,
    description="Whether calls reach a model.",
    values={
        "CLOSED": "Calls reach the model.",
        "OPEN": "Calls are refused for a while because the model failed too often.",
        "HALF_OPEN": "One call is allowed, to test whether the model has recovered.",
    },
)
describe_enum(
    LimiterKind,
    description="What a limiter counts.",
    values={"REQUESTS": "Calls.", "TOKENS": "Tokens, sent and written."},
)


@describes(routing.RateLimited, description="A limiter had no room within the queue's timeout.")
class RateLimited(Problem):
    retry_after_ms: int = field(description="When to try again, in milliseconds, such as 1200.")
    scope: str = field(description="Which limit it is: of a key, a provider or a model.")


@describes(
    routing.ProvidersFailed,
    description="Every target failed, or another target would fail in the same way (CONTENT_FILTERED, "
    "CONTEXT_TOO_LONG, SCHEMA_MISMATCH).",
)
class ProvidersFailed(Problem):
    attempts: list[Attempt] = field(description="Every target that was tried or skipped, in order.")
    retryable: bool = field(description="True if the same call may succeed later.")


@describes(breaker.BreakerState, description="Stops calls to a model that fails, and tests when it has recovered.")
class Breaker:
    status: BreakerStatus = field(description="Whether calls reach the model.")
    consecutive_failures: int = field(description="Failures since the last success.")
    opened_count: BigInt = field(description="How often it opened since the process started.")
    changed_at: datetime = field(description="When the status last changed.")
    probe_at: datetime | None = field(description="When the next probe is allowed. Null unless OPEN.")


@describes(fleet.ModelBreaker, description="A model and its breaker.")
class ModelBreaker:
    model: str = field(description="Name of the model.")
    breaker: Breaker = field(description="The breaker that guards it.")


@describes(limiter.LimiterState, description="A token bucket that refills steadily. Every call takes from it.")
class Limiter:
    model: str | None = field(description="Null if it covers the whole provider.")
    kind: LimiterKind = field(description="What it counts.")
    capacity: float = field(description="What a full bucket holds: a minute's allowance, such as 1000.")
    available: float = field(description="What it holds now.")
    refill_per_second: float = field(description="How fast it fills.")
    waiting: int = field(description="Calls that wait for room.")
    shared: bool = field(description="True if all pods share one bucket.")


@describes(metrics.ProviderMetrics, description="Figures for the last `windowSeconds`.")
class ProviderMetrics:
    window_seconds: int = field(description="How far back the figures go, such as 300.")
    requests: BigInt = field(description="Attempts that reached the provider.")
    failures: BigInt = field(description="Attempts that failed.")
    success_rate: float | None = field(description="0 to 1. Null if there were no requests.")
    latency_p50_ms: float | None = field(description="Half of the whole answers came within this time. Null if there were none.")
    latency_p95_ms: float | None = field(description="95 of 100 whole answers came within this time. Null if there were none.")
    first_token_p50_ms: float | None = field(description="Half of the streams began within this time. Null if there were none.")
    cost_usd: Decimal | None = strawberry.field(
        resolver=resolve.cost_usd,
        description="What the attempts of all tenants cost. Null without the scope ADMIN, or if no price is known.",
    )


@describes(fleet.ModelInfo, description="A model that can be called.")
class Model:
    provider: str = field(description="Name of its provider.")
    name: str = field(description="The provider's own name of it, such as `claude-sonnet-5-5`.")
    input_price_usd: Decimal | None = strawberry.field(
        resolver=resolve.input_price,
        description='US dollars per million input tokens, such as `"3"`. Null if unknown.',
    )
    output_price_usd: Decimal | None = strawberry.field(
        resolver=resolve.output_price, description="US dollars per million output tokens. Null if unknown."
    )
    cache_read_price_usd: Decimal | None = strawberry.field(
        resolver=resolve.cache_read_price,
        description="US dollars per million tokens read from the provider's prompt cache. Null if unknown.",
    )
    cache_write_price_usd: Decimal | None = strawberry.field(
        resolver=resolve.cache_write_price,
        description="US dollars per million tokens written to the provider's prompt cache. Null if unknown.",
    )
    context_tokens: int | None = field(description="Size of its context window. Null if unknown.")
    max_output_tokens: int | None = field(description="Maximum output tokens of one answer. Null if unknown.")


@describes(fleet.ProviderStatus, description="A configured provider with health, breaker and limiter state.")
class Provider(Node):
    id: ID = strawberry.field(resolver=resolve.provider_id, description="Such as `prv_anthropic`.")
    name: str = field(description="As it is configured, such as `anthropic`.")
    kind: str = field(
        description="`anthropic`, `openai` or `openai-compatible`, followed by ` (simulator)` if no real provider answers."
    )
    health: HealthStatus = field(description="Whether it can be called.")
    checked_at: datetime | None = field(description="When it was last probed; null before the first time.")
    breakers: list[ModelBreaker] = field(description="One per model that was called or is configured.")
    limiters: list[Limiter] = field(description="Its rate limits.")
    metrics: ProviderMetrics = field(description="Results of recent calls.")
    models = strawberry.field(
        resolver=resolve.models_of, graphql_type=list[Model], description="Its models, configured or named by a route."
    )


@describes(routing.Route, description="A named list of targets and the order in which they are tried.")
class Route:
    name: str = field(description="The name to pass as `model` instead of a target, such as `default`.")
    strategy: RoutingStrategy = field(description="How targets are ordered, unless the call says otherwise.")
    targets: list[str] = field(description="`provider/model`, in order.")


@describes(routing.RouteCandidate, description="A target of a call's route, and whether the call would try it.")
class RouteCandidate:
    target: str = field(description="`provider/model`.")
    eligible: bool = field(description="True if the call would try it.")
    reason: str = field(description="Why it has this position or is skipped: a sentence for people.")
    estimated_cost_usd: Decimal | None = field(
        description="Maximum cost of the call at this target. Null if the price is unknown."
    )
    latency_p50_ms: float | None = field(description="Recent median latency. Null if unknown.")


BreakerResetResult: TypeAlias = Annotated[
    Provider | NotFound,
    strawberry.union("BreakerResetResult", description="The provider after the reset, or NotFound."),
]


@strawberry.type
class ProviderQueries:
    providers = strawberry.field(
        resolver=resolve.providers,
        graphql_type=list[Provider] | None,
        description="Configured providers with health, breaker and limiter state.",
    )
    models = strawberry.field(
        resolver=resolve.models,
        graphql_type=list[Model] | None,
        description="Models that can be called: configured ones and those that routes name.",
    )
    routes = strawberry.field(
        resolver=resolve.routes,
        graphql_type=list[Route] | None,
        description="Named routes: strategy and targets in order.",
    )
    route_explain = strawberry.field(
        resolver=resolve.route_explain,
        graphql_type=list[RouteCandidate] | None,
        description="Which targets a call would try, in order, and why. Nothing is sent.",
    )


@strawberry.type
class ProviderMutations:
    breaker_reset = strawberry.field(
        resolver=resolve.breaker_reset,
        graphql_type=BreakerResetResult | None,
        description="Let calls through again at once, to one model or to all of a provider's. Needs the scope ADMIN.",
    )
