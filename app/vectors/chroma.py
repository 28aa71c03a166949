"""The store Chroma: a server of your own, or the private one. Each tenant has its own database there, each index is a collection.

No text is sent to it, because its server knows no passwords. It does not keep the last digit of every float, so numbers of
metadata are sent as whole numbers of the same order. The in-process client is not used: with it, two processes must not
open the same folder.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit
from uuid import UUID

import httpx
import numpy as np
from chromadb.api.async_fastapi import AsyncFastAPI
from chromadb.api.models.AsyncCollection import AsyncCollection
from chromadb.config import DEFAULT_TENANT, System
from chromadb.config import Settings as ChromaSettings
from chromadb.errors import ChromaError, NotFoundError

from app.domain.errors import SettingsError, StoreUnavailable
from app.vectors.filters import Filter, Scalar
from app.vectors.nearest import Found, exactly_nearest, hits_of, nearest
from app.vectors.store import Distance, Hit, Index, IndexedChunk, Vector
from app.vectors.typed_metadata import (
    TypedFilter,
    Where,
    from_sortable,
    letter_of,
    plain_metadata,
    sortable,
    typed_filter,
    typed_metadata,
)
from app.vectors.vector import vector_of

MAX_DIMENSIONS = 16_384
MAX_AT_ONCE = 5461
"""The server refuses more in one call."""
_PAGE = 1000
_MAX_ASKED = 10_001
_SPACES = {Distance.COSINE: "cosine", Distance.EUCLIDEAN: "l2", Distance.DOT: "ip"}
HNSW = {"ef_construction": 200, "ef_search": 400, "max_neighbors": 48}
"""On 10,000 random vectors of 384 numbers the recall is 1.00. With the defaults, 100, 100 and 16, it is 0.54."""
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_MARK = "k:"
"""Chroma cannot ask whether a key is missing, so one key says which type a field has."""
_log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Chroma:
    def __init__(self, name: str, url: str, seconds: float) -> None:
        """`name` is the configured name; errors carry it. `url` is `http://host:port`, with `user:password@` if a proxy in front
        of the server asks for them. Connects at the first use. A request may take `seconds`. Raises SettingsError."""
        self._name = name
        self._url = _checked(name, url)
        self._seconds = seconds
        self._http: httpx.AsyncClient | None = None
        self._server: AsyncFastAPI | None = None
        self._collections: dict[UUID, AsyncCollection] = {}

    @property
    def max_dimensions(self) -> int:
        return MAX_DIMENSIONS

    async def create(self, index: Index) -> None:
        with self._answers():
            await self._create(index)

    async def drop(self, index: Index) -> None:
        self._collections.pop(index.key, None)
        with self._answers():
            try:
                await self._connected().delete_collection(index.name, DEFAULT_TENANT, _database(index))
            except NotFoundError:
                return

    async def upsert(self, index: Index, chunks: Sequence[IndexedChunk]) -> None:
        with self._answers():
            for start in range(0, len(chunks), _PAGE):
                put = partial(_put, chunks=chunks[start : start + _PAGE])
                if await self._on(index, put) is None:
                    await self._create(index)
                    await self._on(index, put)

    async def delete(self, index: Index, keys: Sequence[UUID]) -> None:
        with self._answers():
            for start in range(0, len(keys), MAX_AT_ONCE):
                await self._on(index, partial(_remove, keys=keys[start : start + MAX_AT_ONCE]))

    async def search(self, index: Index, vector: Vector, count: int, where: Filter | None = None) -> list[Hit]:
        typed = None if where is None else typed_filter(where, _absent, sortable)

        async def find(collection: AsyncCollection) -> Sequence[Found]:
            search = _Search(collection, index.distance, vector, typed)
            result = await nearest(search.ask, count, _MAX_ASKED, None if typed is None or typed.is_exact else where)
            if len(result.found) >= count or (result.is_complete and not await search.comes_short(result.shown)):
                return result.found
            return await exactly_nearest(_pages(collection, typed), index.distance, vector, count, where)

        with self._answers():
            return hits_of(await self._on(index, find) or [], index.distance)

    async def read(self, index: Index) -> AsyncIterator[Sequence[IndexedChunk]]:
        with self._answers():
            collection = await self._existing(index)
            if collection is None:
                return
            async for page in _pages(collection, None):
                yield page

    async def check(self) -> None:
        with self._answers():
            await self._connected().heartbeat()

    async def close(self) -> None:
        self._server = None
        if self._http is not None:
            await self._http.aclose()

    def _connected(self) -> AsyncFastAPI:
        """The SDK would share one HTTP client among all servers of a process, without a time limit, so it gets one here."""
        if self._server is None:
            url = self._url
            options: dict[str, Any] = {
                "_env_file": None,
                "chroma_api_impl": "chromadb.api.async_fastapi.AsyncFastAPI",
                "chroma_server_host": url.hostname,
                "chroma_server_http_port": url.port or (443 if url.scheme == "https" else 80),
                "chroma_server_ssl_enabled": url.scheme == "https",
                "anonymized_telemetry": False,
            }
            self._server = System(ChromaSettings(**options)).instance(AsyncFastAPI)
            self._http = httpx.AsyncClient(
                timeout=self._seconds,
                headers={"Content-Type": "application/json"},
                auth=(unquote(url.username), unquote(url.password or "")) if url.username else None,
                trust_env=url.hostname not in _LOOPBACK,
            )
            self._server._clients = {hash(asyncio.get_running_loop()): self._http}
        return self._server

    async def _create(self, index: Index) -> None:
        server, database = self._connected(), _database(index)
        try:
            await server.get_database(database, DEFAULT_TENANT)
        except NotFoundError:
            await _make_database(server, database)
        configuration: Any = {"hnsw": {"space": _SPACES[index.distance], **HNSW}, "embedding_function": None}
        await server.get_or_create_collection(index.name, configuration=configuration, tenant=DEFAULT_TENANT, database=database)

    async def _on(self, index: Index, work: Callable[[AsyncCollection], Awaitable[Result]]) -> Result | None:
        """Returns None if there is no index. A collection that was made again has another id, so it is looked up once more."""
        for _ in range(2):
            collection = await self._existing(index)
            if collection is None:
                return None
            try:
                return await work(collection)
            except NotFoundError:
                self._collections.pop(index.key, None)
        return None

    async def _existing(self, index: Index) -> AsyncCollection | None:
        found = self._collections.get(index.key)
        if found is None:
            server = self._connected()
            try:
                model = await server.get_collection(index.name, DEFAULT_TENANT, _database(index))
            except NotFoundError:
                return None
            found = self._collections[index.key] = AsyncCollection(server, model, embedding_function=None)
        return found

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """The SDK raises plain `Exception` for an answer that is no error of Chroma, ValueError for a body that is not JSON."""
        try:
            yield
        except httpx.HTTPError as error:
            raise StoreUnavailable(self._name) from error
        except ChromaError as error:
            _log.warning("Chroma refused a request", extra={"store": self._name, "reason": str(error)[:300]})
            raise StoreUnavailable(self._name) from error
        except Exception as error:
            if type(error) is Exception or isinstance(error, ValueError):
                raise StoreUnavailable(self._name) from error
            raise


class _Search:
    def __init__(self, collection: AsyncCollection, distance: Distance, vector: Vector, typed: TypedFilter | None) -> None:
        self._collection = collection
        self._distance = distance
        self._vector: Any = np.array(vector, dtype=np.float32)
        self._where: Any = None if typed is None else typed.where
        self._with_metadata = typed is not None and not typed.is_exact

    async def ask(self, count: int) -> list[Found]:
        answer: Any = await self._collection.query(
            query_embeddings=[self._vector],
            n_results=count,
            where=self._where,
            include=["distances", "metadatas"] if self._with_metadata else ["distances"],
        )
        ids, distances = answer["ids"][0], answer["distances"][0]
        metadatas = answer["metadatas"][0] if self._with_metadata else [None] * len(ids)
        return [
            Found(self._plain(float(distance)), UUID(name), plain_metadata(metadata, from_sortable))
            for name, distance, metadata in zip(ids, distances, metadatas, strict=True)
        ]

    async def comes_short(self, shown: int) -> bool:
        """Whether the graph of the index did not lead to everything that matches."""
        answer = await self._collection.get(where=self._where, limit=shown + 1, include=[])
        return len(answer["ids"]) > shown

    def _plain(self, distance: float) -> float:
        """`l2` is the square; `ip` is 1 - product."""
        match self._distance:
            case Distance.COSINE:
                return distance
            case Distance.EUCLIDEAN:
                return math.sqrt(max(0.0, distance))
            case Distance.DOT:
                return distance - 1.0


def _checked(name: str, url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_right = False
    if not is_right or parts.path.strip("/") or parts.query or parts.fragment:
        raise SettingsError(f"vectors.stores.{name}.url", 'it should be "http://host:port" or "https://host:port"')
    return parts


async def _make_database(server: AsyncFastAPI, database: str) -> None:
    """Another caller may make it at the same time; the server has no error of its own for that."""
    try:
        await server.create_database(database, DEFAULT_TENANT)
    except ChromaError:
        await server.get_database(database, DEFAULT_TENANT)


async def _put(collection: AsyncCollection, chunks: Sequence[IndexedChunk]) -> bool:
    """Chroma merges metadata into what is there; None removes a key."""
    ids = [str(chunk.key) for chunk in chunks]
    there: Any = await collection.get(ids=ids, include=["metadatas"])
    before = dict(zip(there["ids"], there["metadatas"], strict=True))
    metadatas: Any = [
        (dict.fromkeys(before.get(name) or {}) | _marked(chunk)) or None for name, chunk in zip(ids, chunks, strict=True)
    ]
    embeddings: Any = [np.array(chunk.vector, dtype=np.float32) for chunk in chunks]
    await collection.upsert(ids=ids, embeddings=embeddings, metadatas=metadatas)
    return True


async def _remove(collection: AsyncCollection, keys: Sequence[UUID]) -> bool:
    """The SDK refuses a key that is named twice."""
    await collection.delete(ids=list({str(key) for key in keys}))
    return True


async def _pages(collection: AsyncCollection, typed: TypedFilter | None) -> AsyncIterator[Sequence[IndexedChunk]]:
    where: Any = None if typed is None else typed.where
    for offset in range(0, 2**31, _PAGE):
        page: Any = await collection.get(where=where, limit=_PAGE, offset=offset, include=["embeddings", "metadatas"])
        if len(page["ids"]):
            yield [
                IndexedChunk(UUID(name), vector_of(embedding), plain_metadata(metadata, from_sortable))
                for name, embedding, metadata in zip(page["ids"], page["embeddings"], page["metadatas"], strict=True)
            ]
        if len(page["ids"]) < _PAGE:
            return


def _database(index: Index) -> str:
    return f"t_{hashlib.sha256(index.tenant.encode()).hexdigest()[:40]}"


def _marked(chunk: IndexedChunk) -> dict[str, Scalar]:
    marks: dict[str, Scalar] = {f"{_MARK}{field}": letter_of(value) for field, value in chunk.metadata.items()}
    return typed_metadata(chunk.metadata, sortable) | marks


def _absent(letter: str, field: str) -> Where:
    """`$ne` also matches what has no such key."""
    return {f"{_MARK}{field}": {"$ne": letter}}
