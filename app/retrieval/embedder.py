"""Vectors for documents and questions: through the gateway, so they are routed, limited, cached, held and settled.

The texts of documents are embedded under an idempotency key that follows from the texts. So a call that is repeated after its
process was killed gets the vectors that were paid for already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from app.access.principal import Principal
from app.costs.ledger import PostgresLedger
from app.domain.errors import Refused
from app.domain.money import ZERO
from app.domain.problems import Conflict, InvalidInput, ProblemCode
from app.domain.usage import Operation
from app.gateway.completions import CachePolicy
from app.gateway.embeddings import Embeddings, EmbeddingsRequest
from app.gateway.gateway import Gateway
from app.llm.router import Router
from app.llm.routing import CallNeeds, ProvidersFailed, RoutingPreference
from app.runtime.clock import Clock
from app.runtime.request_hash import digest
from app.settings import EMBEDDINGS_ROUTE
from app.vectors.collections import Collection
from app.vectors.store import Vector
from app.vectors.vector import fault_of, vector_of

MAX_TEXTS = 256
MAX_CHARACTERS = 400_000
"""One call has at most this much, unless a single text is longer."""
_MAX_REPEATS = 3
_CACHED: Final = CachePolicy()
_NO_MODEL = (
    "No embedding model is configured. Configure a provider with embeddings, such as openai, or a local server as an "
    "openai-compatible provider; or give `dimensions`, and bring a vector with each document and search."
)


@dataclass(frozen=True, slots=True)
class Embedded:
    """`cost_usd` is None if a price is unknown. `keys` are the idempotency keys of its calls."""

    vectors: tuple[Vector, ...]
    cost_usd: Decimal | None
    keys: tuple[str, ...] = ()


class Embedder:
    def __init__(self, gateway: Gateway, ledger: PostgresLedger, router: Router, clock: Clock) -> None:
        self._gateway = gateway
        self._ledger = ledger
        self._router = router
        self._clock = clock

    def find_target(self, model: str | None) -> str:
        """Returns the one `provider/model` of a model or route; None is the route `embeddings`. Raises Refused(InvalidInput),
        also for a route with several targets: vectors of two models cannot be compared."""
        try:
            plan = self._router.plan(
                model or EMBEDDINGS_ROUTE, RoutingPreference(), CallNeeds(operation=Operation.EMBEDDING), lambda _: None
            )
        except Refused as refused:
            reason = refused.reason
            if not isinstance(reason, InvalidInput):
                raise
            message = _NO_MODEL if model is None else reason.message
            raise Refused(InvalidInput(message, ("embeddingModel",), ProblemCode.NO_ROUTE)) from None
        if len(plan.targets) > 1:
            names = ", ".join(map(str, plan.targets))
            message = f"The route has several models ({names}), and their vectors cannot be compared. Name one of them."
            raise Refused(InvalidInput(message, ("embeddingModel",)))
        return str(plan.targets[0])

    async def native_dimensions(self, target: str, principal: Principal) -> int:
        """Returns the length of the target's vectors, found by embedding a word. Raises what `Gateway.embed` raises."""
        request = EmbeddingsRequest(("dimensions",), target, cache=_CACHED)
        return (await self._gateway.embed(request, principal)).dimensions

    async def embed_question(self, collection: Collection, text: str, principal: Principal, agent: str | None) -> Embedded:
        """Raises what `Gateway.embed` raises."""
        request = _request(collection, (text,), agent)
        return _checked(collection, await self._gateway.embed(request, principal, Operation.SEARCH))

    async def embed_documents(
        self, collection: Collection, texts: Sequence[str], principal: Principal, agent: str | None
    ) -> Embedded:
        """Returns one vector for each text. Raises what `Gateway.embed` raises. Call `forget` when the vectors are stored."""
        vectors: list[Vector] = []
        keys: list[str] = []
        cost: Decimal | None = ZERO
        for group in groups(texts):
            made, key = await self._embed_once(_request(collection, group, agent), collection, principal)
            part = _checked(collection, made)
            vectors += part.vectors
            keys += [] if key is None else [key]
            cost = None if cost is None or part.cost_usd is None else cost + part.cost_usd
        return Embedded(tuple(vectors), cost, tuple(keys))

    async def forget(self, embedded: Sequence[Embedded], tenant: str) -> None:
        """Drops the vectors that the ledger keeps for a repeat of the call."""
        keys = [key for each in embedded for key in each.keys]
        if keys:
            await self._ledger.drop_documents(tenant, Operation.EMBEDDING, keys)

    async def _embed_once(
        self, request: EmbeddingsRequest, collection: Collection, principal: Principal
    ) -> tuple[Embeddings, str | None]:
        """An earlier call that failed, or whose vectors are not kept any more, is passed over."""
        begun, name = self._clock.now(), digest((collection.id, request)).hex()
        for repeat in range(_MAX_REPEATS):
            key = f"documents:{name}:{repeat}"
            try:
                return await self._gateway.embed(replace(request, idempotency_key=key), principal), key
            except Refused as refused:
                if not _is_earlier(refused.reason, begun):
                    raise
        return await self._gateway.embed(request, principal), None


def groups(texts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yields the texts in order, in as few calls as may be."""
    group: list[str] = []
    characters = 0
    for text in texts:
        if group and (len(group) == MAX_TEXTS or characters + len(text) > MAX_CHARACTERS):
            yield tuple(group)
            group, characters = [], 0
        group.append(text)
        characters += len(text)
    if group:
        yield tuple(group)


def _request(collection: Collection, texts: tuple[str, ...], agent: str | None) -> EmbeddingsRequest:
    return EmbeddingsRequest(texts, collection.embedding_model, collection.asked_dimensions, cache=_CACHED, agent=agent)


def _checked(collection: Collection, made: Embeddings) -> Embedded:
    """Raises Refused(InvalidInput) if the collection cannot take the vectors."""
    vectors = tuple(map(vector_of, made.vectors))
    for vector in vectors:
        fault = fault_of(vector, collection.dimensions, collection.distance)
        if fault is not None:
            raise Refused(InvalidInput(f"The model {collection.embedding_model} made an unusable vector. {fault}"))
    return Embedded(vectors, made.cost_usd)


def _is_earlier(reason: object, begun: datetime) -> bool:
    """Whether the refusal is the outcome of a call before this one."""
    if isinstance(reason, ProvidersFailed):
        return all(attempt.started_at < begun for attempt in reason.attempts)
    return isinstance(reason, Conflict)
