"""Searches: the nearest chunks of a collection, those with the words of a text, or both in one ranking.

What a ranking returns is only a list of keys. Each chunk is read from the database again: its collection, its tenant, and that it
is not deleted. Its metadata is tested against the filter again, and its text is hashed. If chunks are dropped, the ranking is
asked for more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import TypeAlias
from uuid import UUID

from app.access.principal import Principal
from app.domain.errors import Refused
from app.domain.money import ZERO
from app.domain.problems import InvalidInput
from app.retrieval.embedder import Embedder
from app.runtime.clock import Clock
from app.vectors.collections import NO_MODEL, Collection, Collections
from app.vectors.documents import ChunkSpan, Documents, Metadata, Provenance, StoredChunk
from app.vectors.filters import Filter, filterable, matches
from app.vectors.full_text import FullText
from app.vectors.fusion import fuse
from app.vectors.metrics import VectorMetrics
from app.vectors.registry import VectorStores
from app.vectors.store import Hit, Vector
from app.vectors.vector import fault_of

MAX_TOP_K = 100
_MAX_ASKED = 10_000
_MORE = 5
_MIN_FUSED = 50
"""This many chunks of each ranking are joined at least, because the best of both together may be the best of neither."""

Ranking: TypeAlias = Callable[[int], Awaitable[Sequence[Hit]]]
"""Returns so many chunks that match, best first; fewer only if fewer match."""
_log = logging.getLogger(__name__)


class SearchMode(Enum):
    VECTOR = "VECTOR"
    TEXT = "TEXT"
    HYBRID = "HYBRID"


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """Exactly one of `text` and `vector`. Only VECTOR has scores that `min_score` can be compared with, or takes a vector."""

    collection: str
    text: str | None = None
    vector: Vector | None = None
    top_k: int = 10
    min_score: float | None = None
    where: Filter | None = None
    agent: str | None = None
    mode: SearchMode = SearchMode.VECTOR


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A chunk of a document. `id` is the document's."""

    stored: StoredChunk
    score: float

    @property
    def id(self) -> str:
        return self.stored.document

    @property
    def text(self) -> str:
        return self.stored.text

    @property
    def metadata(self) -> Metadata:
        return self.stored.metadata

    @property
    def provenance(self) -> Provenance:
        return self.stored.provenance

    @property
    def chunk(self) -> ChunkSpan:
        return self.stored.span


@dataclass(frozen=True, slots=True)
class SearchHits:
    """`cost_usd` is that of embedding the text; None if its price is unknown."""

    hits: tuple[SearchHit, ...]
    latency_ms: float
    cost_usd: Decimal | None


class Search:
    def __init__(
        self,
        collections: Collections,
        documents: Documents,
        stores: VectorStores,
        embedder: Embedder,
        *,
        full_text: FullText,
        metrics: VectorMetrics,
        clock: Clock,
    ) -> None:
        self._collections = collections
        self._documents = documents
        self._stores = stores
        self._embedder = embedder
        self._full_text = full_text
        self._metrics = metrics
        self._clock = clock

    async def search(self, request: SearchRequest, principal: Principal) -> SearchHits:
        """Returns the best chunks first, ties by document and position. Raises Refused: NotFound, InvalidInput, and what an
        embedding may be refused with. StoreUnavailable."""
        begun = self._clock.monotonic()
        collection = await self._collections.get(principal.tenant, request.collection)
        ranking, cost = await self._ranking(collection, request, principal)
        hits = await self._best(collection, ranking, request)
        return SearchHits(tuple(hits), (self._clock.monotonic() - begun) * 1000, cost)

    async def _ranking(
        self, collection: Collection, request: SearchRequest, principal: Principal
    ) -> tuple[Ranking, Decimal | None]:
        """Returns what ranks the chunks, and what embedding the text cost."""

        async def by_words(count: int) -> Sequence[Hit]:
            assert request.text is not None
            return await self._full_text.search(collection, request.text, count, request.where)

        if request.mode is SearchMode.TEXT:
            return by_words, ZERO
        vector, cost = await self._vector(collection, request, principal)
        store = self._stores.named(collection.store)

        async def by_vector(count: int) -> Sequence[Hit]:
            return await store.search(collection.index, vector, count, request.where)

        async def by_both(count: int) -> Sequence[Hit]:
            depth = max(count, _MIN_FUSED)
            return fuse(*await asyncio.gather(by_vector(depth), by_words(depth)))

        return by_both if request.mode is SearchMode.HYBRID else by_vector, cost

    async def _vector(
        self, collection: Collection, request: SearchRequest, principal: Principal
    ) -> tuple[Vector, Decimal | None]:
        if request.vector is not None:
            fault = fault_of(request.vector, collection.dimensions, collection.distance)
            if fault is not None:
                raise Refused(InvalidInput(fault, ("vector",)))
            return request.vector, ZERO
        if collection.embedding_model == NO_MODEL:
            raise Refused(InvalidInput("The collection has no embedding model. Search it by a vector.", ("text",)))
        assert request.text is not None
        made = await self._embedder.embed_question(collection, request.text, principal, request.agent)
        return made.vectors[0], made.cost_usd

    async def _best(self, collection: Collection, ranking: Ranking, request: SearchRequest) -> list[SearchHit]:
        asked = request.top_k
        while True:
            hits = await ranking(asked)
            found = await self._documents.read(collection, [hit.key for hit in hits])
            shown = [SearchHit(found[hit.key], hit.score) for hit in hits if self._may_show(found.get(hit.key), request.where)]
            is_all = len(hits) < asked or asked == _MAX_ASKED or _is_below(hits, request.min_score)
            if len(shown) >= request.top_k or is_all:
                break
            asked = min(asked * _MORE, _MAX_ASKED)
        shown = [hit for hit in shown if request.min_score is None or hit.score >= request.min_score]
        shown.sort(key=lambda hit: (-hit.score, hit.id, hit.stored.position))
        shown = shown[: request.top_k]
        self._report(collection, hits, found, shown, request)
        return shown

    def _may_show(self, chunk: StoredChunk | None, where: Filter | None) -> bool:
        return chunk is not None and matches(where, filterable(chunk.metadata))

    def _report(
        self,
        collection: Collection,
        hits: Sequence[Hit],
        found: Mapping[UUID, StoredChunk],
        shown: Sequence[SearchHit],
        request: SearchRequest,
    ) -> None:
        store, metrics = collection.store, self._metrics
        metrics.hits_asked.labels(store).inc(request.top_k)
        metrics.hits_given.labels(store).inc(len(shown))
        metrics.hits_dropped.labels(store, "absent").inc(sum(hit.key not in found for hit in hits))
        metrics.hits_dropped.labels(store, "filter").inc(
            sum(not matches(request.where, filterable(chunk.metadata)) for chunk in found.values())
        )
        for hit in shown:
            if not hit.stored.is_verified:
                metrics.unverified.labels(store).inc()
                _log.error(
                    "the text of a chunk does not match its hash",
                    extra={"collection": collection.id, "chunk": str(hit.stored.key), "document": hit.id},
                )


def _is_below(hits: Sequence[Hit], min_score: float | None) -> bool:
    return min_score is not None and bool(hits) and hits[-1].score < min_score
