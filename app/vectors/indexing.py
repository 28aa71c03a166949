"""Brings stores up to what the database says: pending versions go in, deleted ones go out, deleted collections are emptied.

A call that writes documents does this itself, at once. What it leaves, because it was killed or its store was away, one of the
processes does later. Each step may be repeated, also by two processes at once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text

from app.db.sessions import Sessions
from app.domain.errors import StoreUnavailable
from app.runtime.clock import Clock
from app.vectors.collections import Collection, Collections
from app.vectors.documents import Documents, Unfinished
from app.vectors.guarded import GuardedStore
from app.vectors.metrics import VectorMetrics
from app.vectors.registry import VectorStores
from app.vectors.store import Index, IndexedChunk

LOOK_SECONDS = 5.0
_EVERY = timedelta(seconds=4)
_AT_ONCE = 500
_log = logging.getLogger(__name__)


class Indexing:
    def __init__(
        self,
        sessions: Sessions,
        clock: Clock,
        stores: VectorStores,
        *,
        collections: Collections,
        documents: Documents,
        metrics: VectorMetrics,
    ) -> None:
        self._sessions = sessions
        self._clock = clock
        self._stores = stores
        self._collections = collections
        self._documents = documents
        self._metrics = metrics

    async def put(self, collection: Collection, versions: Sequence[UUID], chunks: Sequence[IndexedChunk]) -> bool:
        """Puts the chunks of pending versions into their store and makes the versions ready. Returns False if the store is away:
        then they stay pending and go out later."""
        try:
            await self._stores.named(collection.store).upsert(collection.index, chunks)
        except StoreUnavailable:
            return False
        await self._documents.finish(collection.key, versions)
        return True

    async def put_stored(self, collection: Collection, versions: Sequence[UUID]) -> bool:
        """Does what `put` does, with chunks as they are stored."""
        return await self.put(collection, versions, await self._documents.chunks_of(versions))

    async def run_maintenance(self) -> None:
        """Goes on with what is unfinished, until it is cancelled."""
        while True:
            try:
                if await self._claim():
                    await self.run_once()
            except StoreUnavailable:
                _log.warning("unfinished documents wait for PostgreSQL")
            except Exception:  # noqa: BLE001 the next look must not end with this one
                _log.exception("unfinished documents were not handled")
            await self._clock.sleep(LOOK_SECONDS)

    async def run_once(self) -> None:
        for store in self._stores:
            try:
                await self._finish(store)
            except StoreUnavailable:
                continue
        for collection in await self._collections.deleted():
            await self._empty(collection)
        pending, drift = await self._documents.pending_counts(), await self._documents.drift_counts()
        for store in self._stores:
            self._metrics.pending.labels(store.name).set(pending.get(store.name, 0))
            self._metrics.drift.labels(store.name).set(drift.get(store.name, 0))

    async def _finish(self, store: GuardedStore) -> None:
        """Raises StoreUnavailable."""
        while unfinished := await self._documents.unfinished(store.name, _AT_ONCE):
            for index, versions in _by_index(unfinished).items():
                pending = [version.key for version in versions if version.is_pending]
                if pending:
                    await store.upsert(index, await self._documents.chunks_of(pending))
                    await self._documents.finish(index.key, pending)
                deleted = [version.key for version in versions if not version.is_pending]
                if deleted:
                    await store.delete(index, await self._documents.chunk_keys_of(deleted))
                    await self._documents.forget(deleted)

    async def _empty(self, collection: Collection) -> None:
        try:
            await self._stores.named(collection.store).drop(collection.index)
        except StoreUnavailable:
            return
        while not await self._collections.empty(collection.key, _AT_ONCE):
            continue

    async def _claim(self) -> bool:
        async with self._sessions.write() as session:
            return (await session.execute(_CLAIM, {"every": _EVERY})).first() is not None


def _by_index(versions: Iterable[Unfinished]) -> dict[Index, list[Unfinished]]:
    found: dict[Index, list[Unfinished]] = {}
    for version in versions:
        found.setdefault(version.index, []).append(version)
    return found


_CLAIM = text(
    "update maintenance set begun_at = now() where task = 'vectors' and begun_at <= now() - cast(:every as interval) returning 1"
)
