"""Embeddings: the request and the result."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from app.domain.usage import Label, TokenUsage
from app.gateway.completions import CachePolicy, CompletionStatus
from app.llm.routing import RoutingPreference


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """`model` is `provider/model` or the name of a route. None means the route `embeddings`. If `dimensions` is None, the model
    decides."""

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
    """One vector for each text, in the order of the texts. `cost_usd` is None if the price of any attempt is unknown.
    `cached_count` is the number of vectors that cost nothing."""

    provider: str
    model: str
    dimensions: int
    vectors: tuple[tuple[float, ...], ...]
    usage: TokenUsage
    cost_usd: Decimal | None
    cached_count: int = 0


@dataclass(frozen=True, slots=True)
class EmbeddingsOutcome:
    """How a call ended: with embeddings or with a problem. `began_at` is database time; None for a call that ended before."""

    key: UUID
    tenant: str
    status: CompletionStatus
    embeddings: Embeddings | None = None
    problem: object | None = None
    began_at: datetime | None = None
