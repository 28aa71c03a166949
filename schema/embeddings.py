"""Embeddings: texts as vectors."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, TypeAlias

import strawberry
from strawberry import field

from app.gateway import embeddings
from resolvers import embeddings as resolve
from schema.budgets import BudgetExceeded
from schema.describes import describes
from schema.problems import Conflict, InvalidInput
from schema.providers import ProvidersFailed, RateLimited
from schema.values import TokenUsage


@describes(embeddings.Embeddings, description="A vector for each text, and their total cost.")
class Embeddings:
    provider: str = field(description="The provider that answered.")
    model: str = field(description="The model that answered. Vectors of different models cannot be compared.")
    dimensions: int = field(description="Length of each vector, such as 1536.")
    vectors: list[list[float]] = field(description="In the order of the texts.", metadata={"cost": 0})
    usage: TokenUsage = field(description="All attempts together.")
    cost_usd: Decimal | None = field(description="All attempts together. Null if a price is unknown.")
    cached_count: int = field(description="How many of the vectors came from the cache and cost nothing.")


EmbeddingsCreateResult: TypeAlias = Annotated[
    Embeddings | BudgetExceeded | RateLimited | ProvidersFailed | InvalidInput | Conflict,
    strawberry.union("EmbeddingsCreateResult", description="A vector for each text, or the reason why there is none."),
]


@strawberry.type
class EmbeddingMutations:
    embeddings_create = strawberry.field(
        resolver=resolve.embeddings_create,
        graphql_type=EmbeddingsCreateResult | None,
        description="Turn texts into vectors and wait for all of them.",
    )
