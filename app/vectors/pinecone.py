"""The store Pinecone: an index per dimension and distance, in it a namespace for each collection.

Reads may be late there, and not every plan deletes by filter. So records are deleted by their keys, and nothing here reads back
what it has just written. What the service would refuse does not hold up other chunks: a vector of zeros is kept as a length that
is too small to matter, and metadata over 40 KB as a mark that every filter lets through, because the caller tests it again.
"""

from __future__ import annotations

import json
import logging
import math
from array import array
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from pinecone import AsyncPinecone, RetryConfig
from pinecone.async_client.async_index import AsyncIndex
from pinecone.errors import (
    ApiError,
    ConflictError,
    NotFoundError,
    PineconeConnectionError,
    PineconeTimeoutError,
    ResponseParsingError,
)

from app.domain.errors import StoreUnavailable
from app.vectors.filters import Filter, Scalar
from app.vectors.nearest import Found, exactly_nearest, hits_of, nearest
from app.vectors.store import Distance, Hit, Index, IndexedChunk, Vector
from app.vectors.typed_metadata import TypedFilter, Where, plain_metadata, typed_filter, typed_metadata
from app.vectors.vector import vector_of

MAX_DIMENSIONS = 20_000
_MAX_RECORDS = 1000
_MAX_REQUEST_BYTES = 1_900_000
_MAX_ASKED = 10_000
_MAX_ASKED_WITH_METADATA = 1000
_LISTED = 100
_NUMBER_BYTES = 22
_RECORD_BYTES = 100
_ALMOST_ZERO = 1e-30
_MAX_METADATA_BYTES = 40_000
_TOO_MUCH: Mapping[str, Scalar] = {"x:": True}
_METRICS = {Distance.COSINE: "cosine", Distance.EUCLIDEAN: "euclidean", Distance.DOT: "dotproduct"}
_log = logging.getLogger(__name__)


class Pinecone:
    def __init__(self, name: str, api_key: str, host: str, index_prefix: str, seconds: float) -> None:
        """`name` is the configured name; errors carry it. Connects at the first use. A request may take `seconds`."""
        self._name = name
        self._prefix = index_prefix
        self._client = AsyncPinecone(api_key=api_key, host=host, timeout=seconds, retry_config=RetryConfig(max_retries=0))
        self._opened: dict[str, AsyncIndex] = {}

    @property
    def max_dimensions(self) -> int:
        return MAX_DIMENSIONS

    async def create(self, index: Index) -> None:
        with self._answers():
            await self._create(index)

    async def drop(self, index: Index) -> None:
        with self._answers():
            opened = await self._open(index)
            if opened is not None:
                try:
                    await opened.delete_namespace(name=index.name)
                except NotFoundError:
                    return

    async def upsert(self, index: Index, chunks: Sequence[IndexedChunk]) -> None:
        with self._answers():
            for records in _batches(chunks, index.dimensions):
                try:
                    await self._put(index, records)
                except NotFoundError:
                    await self._close(index)
                    await self._create(index)
                    await self._put(index, records)

    async def delete(self, index: Index, keys: Sequence[UUID]) -> None:
        with self._answers():
            opened = await self._open(index)
            if opened is None:
                return
            for start in range(0, len(keys), _MAX_RECORDS):
                try:
                    await opened.delete(ids=[str(key) for key in keys[start : start + _MAX_RECORDS]], namespace=index.name)
                except NotFoundError:
                    return

    async def search(self, index: Index, vector: Vector, count: int, where: Filter | None = None) -> list[Hit]:
        typed = None if where is None else typed_filter(where, _absent)
        with self._answers():
            opened = await self._open(index)
            if opened is None:
                return []
            search = _Search(opened, index, vector, typed)
            tested = None if typed is None or typed.is_exact else where
            try:
                result = await nearest(search.ask, count, _MAX_ASKED if tested is None else _MAX_ASKED_WITH_METADATA, tested)
                found = result.found
                if not result.is_complete:
                    found = await exactly_nearest(_pages(opened, index), index.distance, vector, count, where)
            except NotFoundError:
                await self._close(index)
                return []
            return hits_of(found, index.distance)

    async def read(self, index: Index) -> AsyncIterator[Sequence[IndexedChunk]]:
        with self._answers():
            opened = await self._open(index)
            if opened is None:
                return
            try:
                async for page in _pages(opened, index):
                    yield page
            except NotFoundError:
                await self._close(index)

    async def check(self) -> None:
        with self._answers():
            async for _ in self._client.indexes.list():
                return

    async def close(self) -> None:
        for opened in self._opened.values():
            await opened.close()
        self._opened.clear()
        await self._client.close()

    async def _create(self, index: Index) -> None:
        """Raises StoreUnavailable while an index is being made; that takes some seconds."""
        name = self._index_name(index)
        schema = {
            "fields": {"_values": {"type": "dense_vector", "dimension": index.dimensions, "metric": _METRICS[index.distance]}}
        }
        try:
            described = await self._client.indexes.describe(name)
        except NotFoundError:
            try:
                described = await self._client.indexes.create(name=name, schema=schema)
            except ConflictError:
                described = await self._client.indexes.describe(name)
        if not described.status.ready:
            raise StoreUnavailable(self._name)

    async def _put(self, index: Index, records: Sequence[dict[str, object]]) -> None:
        """Raises NotFoundError if there is no index."""
        opened = await self._open(index)
        if opened is None:
            await self._create(index)
            opened = await self._open(index)
        if opened is None:
            raise StoreUnavailable(self._name)
        await opened.upsert(vectors=records, namespace=index.name)

    async def _open(self, index: Index) -> AsyncIndex | None:
        name = self._index_name(index)
        if name not in self._opened:
            try:
                opened = await self._client.index(name=name)
            except NotFoundError:
                return None
            self._opened.setdefault(name, opened)
        return self._opened[name]

    async def _close(self, index: Index) -> None:
        """Forgets an index that is not there any more."""
        opened = self._opened.pop(self._index_name(index), None)
        if opened is not None:
            await opened.close()

    def _index_name(self, index: Index) -> str:
        return f"{self._prefix}-{index.dimensions}-{_METRICS[index.distance]}"

    @contextmanager
    def _answers(self) -> Iterator[None]:
        try:
            yield
        except ApiError as error:
            _log.warning("Pinecone refused a request", extra={"store": self._name, "reason": str(error)[:300]})
            raise StoreUnavailable(self._name) from error
        except (PineconeConnectionError, PineconeTimeoutError, ResponseParsingError) as error:
            raise StoreUnavailable(self._name) from error


class _Search:
    def __init__(self, opened: AsyncIndex, index: Index, vector: Vector, typed: TypedFilter | None) -> None:
        self._opened = opened
        self._index = index
        self._vector = _sent(vector)
        self._where: Any = None if typed is None else {"$or": [typed.where, {"x:": {"$eq": True}}]}
        self._with_metadata = typed is not None and not typed.is_exact

    async def ask(self, count: int) -> list[Found]:
        answer = await self._opened.query(
            vector=self._vector,
            top_k=count,
            namespace=self._index.name,
            filter=self._where,
            include_metadata=self._with_metadata,
        )
        return [
            Found(
                self._distance(match.score),
                UUID(match.id),
                None if match.metadata == _TOO_MUCH else plain_metadata(match.metadata),
            )
            for match in answer.matches
        ]

    def _distance(self, score: float) -> float:
        """The score of `euclidean` is the square of the distance."""
        match self._index.distance:
            case Distance.COSINE:
                return 1.0 - score
            case Distance.EUCLIDEAN:
                return math.sqrt(max(0.0, score))
            case Distance.DOT:
                return -score


async def _pages(opened: AsyncIndex, index: Index) -> AsyncIterator[Sequence[IndexedChunk]]:
    async for page in opened.list(namespace=index.name, limit=_LISTED):
        ids = [str(item.id) for item in page.vectors]
        if ids:
            fetched = await opened.fetch(ids=ids, namespace=index.name)
            yield [
                IndexedChunk(UUID(name), _kept(record.values), plain_metadata(record.metadata))
                for name, record in fetched.vectors.items()
            ]


def _batches(chunks: Sequence[IndexedChunk], dimensions: int) -> Iterator[list[dict[str, object]]]:
    """Each is small enough for one request."""
    batch: list[dict[str, object]] = []
    size = 0
    for chunk in chunks:
        metadata: Mapping[str, Scalar] = typed_metadata(chunk.metadata)
        if len(json.dumps(metadata)) > _MAX_METADATA_BYTES:
            metadata = _TOO_MUCH
        added = dimensions * _NUMBER_BYTES + len(json.dumps(metadata)) + _RECORD_BYTES
        if batch and (size + added > _MAX_REQUEST_BYTES or len(batch) == _MAX_RECORDS):
            yield batch
            batch, size = [], 0
        batch.append({"id": str(chunk.key), "values": _sent(chunk.vector), "metadata": metadata})
        size += added
    if batch:
        yield batch


def _sent(vector: Vector) -> list[float]:
    return list(vector) if any(vector) else [_ALMOST_ZERO, *vector[1:]]


def _kept(values: Sequence[float]) -> Vector:
    almost_zero = array("f", [_ALMOST_ZERO])[0]
    vector = vector_of(values)
    return vector if vector[0] != almost_zero or any(vector[1:]) else array("f", [0.0] * len(vector))


def _absent(letter: str, field: str) -> Where:
    return {f"{letter}:{field}": {"$exists": False}}
