"""Compares stores with the database, and puts right what differs: chunks that are missing, that have another vector or other
metadata, and that should not be there. The database has every vector, so nothing is embedded.

Versions that are pending, and deleted ones that their store still has, are no differences: `Indexing` handles them.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from app.db.sessions import Sessions
from app.vectors.collections import Collection, Collections
from app.vectors.documents import Documents
from app.vectors.registry import VectorStores
from app.vectors.store import IndexedChunk, Vector, VectorStore

_PAGE = 500
_TOLERANCE = 1e-3
"""How far the numbers of a unit vector may be off, because a store may keep them in fewer bits."""


@dataclass(frozen=True, slots=True)
class Drift:
    """The keys of chunks that differ in one collection."""

    missing: tuple[UUID, ...]
    changed: tuple[UUID, ...]
    foreign: tuple[UUID, ...]

    @property
    def count(self) -> int:
        return len(self.missing) + len(self.changed) + len(self.foreign)


class Repair:
    def __init__(self, sessions: Sessions, stores: VectorStores, collections: Collections, documents: Documents) -> None:
        self._sessions = sessions
        self._stores = stores
        self._collections = collections
        self._documents = documents

    async def collections(self) -> Sequence[Collection]:
        """The collections of all tenants."""
        return await self._collections.live()

    async def compare(self, collection: Collection) -> Drift:
        """Changes nothing but the figure of the last comparison. Raises StoreUnavailable."""
        store, begun = self._stores.named(collection.store), await self._now()
        seen: set[UUID] = set()
        changed: list[UUID] = []
        foreign: list[UUID] = []
        async for page in store.read(collection.index):
            keys = [chunk.key for chunk in page]
            seen.update(keys)
            known = await self._states(collection, keys)
            ready = {chunk.key: chunk for chunk in await self._chunks([key for key in keys if known.get(key) == "ready"])}
            foreign += [key for key in keys if key not in known]
            changed += [chunk.key for chunk in page if chunk.key in ready and not _is_same(chunk, ready[chunk.key])]
        missing = [key async for page_of_keys in self._ready(collection, begun) for key in page_of_keys if key not in seen]
        drift = Drift(tuple(missing), tuple(changed), tuple(foreign))
        await self._record(collection, drift.count)
        return drift

    async def repair(self, collection: Collection, drift: Drift) -> None:
        """Raises StoreUnavailable."""
        store: VectorStore = self._stores.named(collection.store)
        await store.create(collection.index)
        wrong = (*drift.missing, *drift.changed)
        for start in range(0, len(wrong), _PAGE):
            await store.upsert(collection.index, await self._chunks(wrong[start : start + _PAGE]))
        if drift.foreign:
            await store.delete(collection.index, drift.foreign)
        await self._record(collection, 0)

    async def _states(self, collection: Collection, keys: Sequence[UUID]) -> dict[UUID, str]:
        """Returns the state of the version of each chunk of the collection."""
        async with self._sessions.read(primary=True) as session:
            rows = (await session.execute(_STATES, {"collection": collection.key, "keys": list(keys)})).all()
        return {UUID(int=row.key.int): row.state for row in rows}

    async def _chunks(self, keys: Sequence[UUID]) -> list[IndexedChunk]:
        return await self._documents.chunks(keys)

    async def _now(self) -> datetime:
        async with self._sessions.read(primary=True) as session:
            now: datetime = (await session.execute(text("select now()"))).scalar_one()
            return now

    async def _ready(self, collection: Collection, begun: datetime) -> AsyncIterator[list[UUID]]:
        """Yields the chunks that were ready when the comparison began."""
        after = UUID(int=0)
        while True:
            values = {"collection": collection.key, "after": after, "limit": _PAGE}
            async with self._sessions.read(primary=True) as session:
                rows = (await session.execute(_READY, values)).all()
            if not rows:
                return
            yield [UUID(int=row.key.int) for row in rows if row.state == "ready" and row.changed_at < begun]
            after = rows[-1].key

    async def _record(self, collection: Collection, count: int) -> None:
        async with self._sessions.write() as session:
            await session.execute(_RECORD, {"key": collection.key, "drift": count})


def _is_same(kept: IndexedChunk, wanted: IndexedChunk) -> bool:
    return dict(kept.metadata) == dict(wanted.metadata) and _is_near(kept.vector, wanted.vector)


def _is_near(kept: Vector, wanted: Vector) -> bool:
    if len(kept) != len(wanted):
        return False
    size = math.hypot(*wanted) or 1.0
    return all(abs(one - other) <= _TOLERANCE * size for one, other in zip(kept, wanted, strict=True))


_STATES = text(
    "select c.key, d.state from unnest(cast(:keys as uuid[])) wanted (key)"
    " cross join lateral (select * from chunks where chunks.key = wanted.key offset 0) c"
    " cross join lateral (select * from documents where documents.key = c.document offset 0) d"
    " where c.collection = :collection"
)
_READY = text(
    "select c.key, d.state, d.changed_at from (select key, document from chunks where collection = :collection and key > :after"
    " order by key limit :limit) c join documents d on d.key = c.document order by c.key"
)
_RECORD = text("update collections set drift = :drift, compared_at = now() where key = :key")
