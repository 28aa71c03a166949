"""Vectors as callers ask for them and as they get them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

from app.domain.usage import Label, TokenUsage
from app.gateway.completions import CachePolicy, CompletionStatus
from app.llm.routing import RoutingPreference


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """`model` is `provider/model` or a route's name; None is the route `embeddings`. `dimensions` None is the model's own."""

    texts: tuple[str, ...]
    model: str | None = None
    dimensions: int | None = None
    routing: RoutingPreference = RoutingPreference()
    cache: CachePolicy | None = None
    agent: str | None = None
    labels: tuple[Label, ...] = ()
    timeout: timedelta | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A vector for each text, in their order. `cost_usd` is None if any attempt's price is unknown; `cached_count` is how many of
    them cost nothing."""

    provider: str
    model: str
    dimensions: int
    vectors: tuple[tuple[float, ...], ...]
    usage: TokenUsage
    cost_usd: Decimal | None
    cached_count: int = 0


@dataclass(frozen=True, slots=True)
class EmbeddingsOutcome:
    """How a call ended: there is either what was made or the problem."""

    key: UUID
    tenant: str
    status: CompletionStatus
    embeddings: Embeddings | None = None
    problem: object | None = None
