"""Documents that come in: what is new is cut, embedded and written; what is unchanged costs nothing.

A call is split into batches by the places of its documents. A batch is written in one transaction, so a repeat of a call that was
killed finds each batch written or not, and embeds the same texts together as before. Each document fails on its own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property, partial
from hashlib import sha256
from typing import TypeAlias

from app.access.principal import Principal
from app.costs.budgets import BudgetExceeded
from app.costs.estimate import Estimator
from app.domain.errors import Refused
from app.domain.ids import new_uuids
from app.domain.money import ZERO
from app.domain.problems import InvalidInput, ProblemCode
from app.llm.routing import ProvidersFailed, RateLimited
from app.retrieval.embedder import Embedded, Embedder
from app.runtime.clock import Clock
from app.runtime.offload import Offload
from app.vectors.chunks import Chunk, cut
from app.vectors.collections import NO_MODEL, Collection, Collections
from app.vectors.documents import Documents, Metadata, NewChunk, NewDocument, Version, VersionGone, text_sha256
from app.vectors.filters import filterable
from app.vectors.indexing import Indexing
from app.vectors.store import IndexedChunk, Vector
from app.vectors.vector import fault_of, vector_to_bytes

MAX_DOCUMENTS = 1000
_BATCH, _BATCH_WITH_VECTORS = 100, 1000
_PARALLEL = 4
_LARGE_TEXT = 8 * 1024
_CALL_WIDE = frozenset({ProblemCode.NO_ROUTE, ProblemCode.UNPRICED_MODEL})


@dataclass(frozen=True)
class GivenDocument:
    """`place` is its place in the call."""

    place: int
    id: str
    text: str
    vector: Vector | None = None
    metadata: Metadata = None
    source: str | None = None

    @cached_property
    def sha256(self) -> bytes:
        return text_sha256(self.text)

    @cached_property
    def vector_sha256(self) -> bytes | None:
        return None if self.vector is None else sha256(vector_to_bytes(self.vector)).digest()


@dataclass(frozen=True, slots=True)
class IngestRequest:
    collection: str
    documents: tuple[GivenDocument, ...]
    agent: str | None = None


@dataclass(frozen=True, slots=True)
class DocumentFailure:
    id: str
    problem: InvalidInput


@dataclass(frozen=True, slots=True)
class DocumentsUpserted:
    """`upserted_count` counts documents that were accepted; if their store is away, they go there later. `cost_usd` is None if a
    price is unknown."""

    upserted_count: int
    unchanged_count: int
    failures: tuple[DocumentFailure, ...]
    cost_usd: Decimal | None


@dataclass(slots=True)
class _Outcome:
    """What became of the documents so far. `refusals` hold for the whole call, such as a spent budget."""

    upserted: int = 0
    unchanged: int = 0
    cost_usd: Decimal | None = ZERO
    failures: list[tuple[GivenDocument, InvalidInput]] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)

    def add_cost(self, cost: Decimal | None) -> None:
        self.cost_usd = None if cost is None or self.cost_usd is None else self.cost_usd + cost


@dataclass(frozen=True, slots=True)
class _Call:
    collection: Collection
    principal: Principal
    agent: str | None
    outcome: _Outcome


Chunked: TypeAlias = tuple[GivenDocument, list[Chunk]]
Contents: TypeAlias = tuple[GivenDocument, Sequence[tuple[Chunk, Vector]]]


class Ingest:
    def __init__(
        self,
        collections: Collections,
        documents: Documents,
        indexing: Indexing,
        embedder: Embedder,
        *,
        estimator: Estimator,
        offload: Offload,
        clock: Clock,
        chunk_tokens: int,
        chunk_overlap: int,
    ) -> None:
        self._collections = collections
        self._documents = documents
        self._indexing = indexing
        self.embedder = embedder
        self._estimator = estimator
        self._offload = offload
        self._clock = clock
        self._chunk_tokens = chunk_tokens
        self._chunk_overlap = chunk_overlap

    async def upsert(self, request: IngestRequest, principal: Principal) -> DocumentsUpserted:
        """Raises Refused: NotFound; InvalidInput if a vector does not fit, and then nothing is written; and what an embedding may
        be refused with, if nothing could be written because of it. StoreUnavailable."""
        collection = await self._collections.get(principal.tenant, request.collection)
        for document in request.documents:
            _check_vector(collection, document)
        call = _Call(collection, principal, request.agent, _Outcome())
        size = _BATCH_WITH_VECTORS if all(each.vector is not None for each in request.documents) else _BATCH
        batches = [request.documents[start : start + size] for start in range(0, len(request.documents), size)]
        places = asyncio.Semaphore(min(_PARALLEL, principal.max_concurrent or _PARALLEL))

        async def run(batch: Sequence[GivenDocument]) -> None:
            async with places:
                await self._batch(call, batch)

        ended = await asyncio.gather(*map(run, batches), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error
        return _result(call.outcome)

    async def _batch(self, call: _Call, batch: Sequence[GivenDocument]) -> None:
        """Begins anew if another call replaces a version meanwhile whose chunks were to be taken over."""
        while True:
            known = await self._documents.newest(call.collection, [document.id for document in batch])
            unchanged = [document for document in batch if _is_same(document, known.get(document.id))]
            changed = [document for document in batch if not _is_same(document, known.get(document.id))]
            pending = [known[document.id].key for document in unchanged if known[document.id].is_pending]
            if pending:
                await self._indexing.put_stored(call.collection, pending)
            copied = [document for document in changed if _has_same_text(document, known)]
            fresh = [document for document in changed if not _has_same_text(document, known)]
            try:
                await self._write_copies(call, copied, known)
            except VersionGone:
                continue
            call.outcome.unchanged += len(unchanged)
            break
        await self._write_given(call, [document for document in fresh if document.vector is not None])
        await self._embed_and_write(call, [document for document in fresh if document.vector is None])

    async def _write_copies(self, call: _Call, documents: Sequence[GivenDocument], known: Mapping[str, Version]) -> None:
        """Documents of which only metadata or source changed keep their vectors."""
        if not documents:
            return
        versions = self._versions([(document, ()) for document in documents], known)
        await self._documents.write(call.collection, versions)
        call.outcome.upserted += len(versions)
        await self._indexing.put_stored(call.collection, [version.key for version in versions])

    async def _write_given(self, call: _Call, documents: Sequence[GivenDocument]) -> None:
        if not documents:
            return
        given: list[Contents] = []
        for document in documents:
            assert document.vector is not None
            whole = Chunk(0, 0, len(document.text), document.text)
            given.append((document, ((whole, document.vector),)))
        await self._write(call, self._versions(given))

    async def _embed_and_write(self, call: _Call, documents: Sequence[GivenDocument]) -> None:
        if documents:
            await self._embed_chunked(call, [(document, await self._cut(document.text)) for document in documents])

    async def _embed_chunked(self, call: _Call, documents: Sequence[Chunked]) -> None:
        """If the texts of several documents are refused, they are halved until those at fault are alone."""
        texts = [chunk.text for _, chunks in documents for chunk in chunks]
        try:
            embedded = await self.embedder.embed_documents(call.collection, texts, call.principal, call.agent)
        except Refused as refused:
            if _is_call_wide(refused.reason):
                call.outcome.refusals.append(refused)
                call.outcome.failures += [(document, _as_failure(refused.reason)) for document, _ in documents]
            elif len(documents) == 1:
                call.outcome.failures.append((documents[0][0], _as_failure(refused.reason)))
            else:
                middle = len(documents) // 2
                await self._embed_chunked(call, documents[:middle])
                await self._embed_chunked(call, documents[middle:])
            return
        call.outcome.add_cost(embedded.cost_usd)
        await self._write_embedded(call, documents, embedded)

    async def _write_embedded(self, call: _Call, documents: Sequence[Chunked], embedded: Embedded) -> None:
        vectors = iter(embedded.vectors)
        contents = [(document, [(chunk, next(vectors)) for chunk in chunks]) for document, chunks in documents]
        await self._write(call, self._versions(contents))
        await self.embedder.forget([embedded], call.principal.tenant)

    async def _write(self, call: _Call, versions: Sequence[NewDocument]) -> None:
        await self._documents.write(call.collection, versions)
        call.outcome.upserted += len(versions)
        chunks = [
            IndexedChunk(chunk.key, chunk.vector, filterable(version.metadata))
            for version in versions
            for chunk in version.chunks
        ]
        await self._indexing.put(call.collection, [version.key for version in versions], chunks)

    async def _cut(self, text: str) -> list[Chunk]:
        work = partial(cut, text, self._count, self._chunk_tokens, self._chunk_overlap)
        return work() if len(text) < _LARGE_TEXT else await self._offload.run_in_thread(len(text), work)

    def _count(self, text: str) -> int:
        return self._estimator.count_now([text])

    def _versions(self, contents: Sequence[Contents], copied: Mapping[str, Version] | None = None) -> list[NewDocument]:
        """Documents without chunks take over those of the versions `copied`."""
        keys = iter(new_uuids(self._clock.now(), sum(1 + len(chunks) for _, chunks in contents)))
        return [
            NewDocument(
                key=next(keys),
                id=document.id,
                sha256=document.sha256,
                source=document.source,
                metadata=document.metadata,
                vector_sha256=document.vector_sha256,
                chunks=tuple(NewChunk(next(keys), chunk.start, chunk.end, chunk.text, vector) for chunk, vector in chunks),
                copies=None if copied is None else copied[document.id].key,
            )
            for document, chunks in contents
        ]


def _check_vector(collection: Collection, document: GivenDocument) -> None:
    path = ("documents", str(document.place), "vector")
    if document.vector is None:
        if collection.embedding_model == NO_MODEL:
            raise Refused(InvalidInput("The collection has no embedding model. Give each document a vector.", path))
        return
    fault = fault_of(document.vector, collection.dimensions, collection.distance)
    if fault is not None:
        raise Refused(InvalidInput(fault, path))


def _is_same(document: GivenDocument, known: Version | None) -> bool:
    return (
        known is not None
        and _same_text(document, known)
        and known.source == document.source
        and _written(known.metadata) == _written(document.metadata)
    )


def _written(metadata: Metadata) -> str:
    """Python takes 1 and true for equal."""
    return json.dumps(metadata, sort_keys=True)


def _has_same_text(document: GivenDocument, known: Mapping[str, Version]) -> bool:
    version = known.get(document.id)
    return version is not None and _same_text(document, version)


def _same_text(document: GivenDocument, known: Version) -> bool:
    return known.sha256 == document.sha256 and known.vector_sha256 == document.vector_sha256


def _is_call_wide(reason: object) -> bool:
    """Whether every other document of the call would be refused for the same reason."""
    match reason:
        case BudgetExceeded() | RateLimited():
            return True
        case ProvidersFailed():
            return reason.retryable
        case InvalidInput():
            return reason.code in _CALL_WIDE
        case _:
            return True


def _as_failure(reason: object) -> InvalidInput:
    match reason:
        case InvalidInput():
            return InvalidInput(reason.message, None, reason.code)
        case BudgetExceeded():
            return InvalidInput("A budget cannot pay for the embedding.", None, reason.code)
        case ProvidersFailed() | RateLimited():
            return InvalidInput(reason.message, None, reason.code)
        case _:
            return InvalidInput("The text could not be embedded.", None, ProblemCode.PROVIDER_ERROR)


def _result(outcome: _Outcome) -> DocumentsUpserted:
    """Raises the refusal if nothing could be written because of it."""
    if outcome.refusals and not outcome.upserted and not outcome.unchanged:
        raise outcome.refusals[0]
    failures = tuple(
        DocumentFailure(document.id, InvalidInput(problem.message, ("documents", str(document.place)), problem.code))
        for document, problem in sorted(outcome.failures, key=lambda failure: failure[0].place)
    )
    return DocumentsUpserted(outcome.upserted, outcome.unchanged, failures, outcome.cost_usd)
