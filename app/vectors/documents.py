"""The documents of collections, in PostgreSQL: the truth of which a store has an index.

Each version of a document has a row. A new version is `pending` until its chunks are in the store. Then it becomes `ready`, and
in the same transaction the version before it becomes `deleted`. Only ready versions are shown, so a document replaces all its
chunks at once. Deleted versions are removed from the store first, then from here. A process may be killed between any two
steps: `Indexing` goes on with what is unfinished.
"""

from __future__ import annotations

import json
from collections.abc import Collection as Sized
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import text

from app.db.sessions import Sessions, WriteSession
from app.domain.errors import GreenLangError, Refused
from app.vectors.collections import NO_SUCH_COLLECTION, Collection
from app.vectors.filters import filterable
from app.vectors.store import Distance, Index, IndexedChunk, Vector
from app.vectors.vector import vector_from_bytes, vector_to_bytes

Metadata: TypeAlias = Mapping[str, Any] | None
_PENDING_AGE = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class NewChunk:
    """`start` and `end` are positions in the document's text, in code points."""

    key: UUID
    start: int
    end: int
    text: str
    vector: Vector


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A version of a document. Without chunks it takes over those of the version `copies`."""

    key: UUID
    id: str
    sha256: bytes
    source: str | None
    metadata: Metadata
    vector_sha256: bytes | None
    """The hash of the vector that the caller gave; None if the text was embedded."""
    chunks: tuple[NewChunk, ...] = ()
    copies: UUID | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """The newest version of a document that is stored."""

    key: UUID
    id: str
    is_pending: bool
    sha256: bytes
    source: str | None
    metadata: Metadata
    vector_sha256: bytes | None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a chunk's text comes from. `sha256` is in hexadecimal, of the text when it was written. `verified` is false if the
    text does not match it now."""

    sha256: str
    source: str | None
    indexed_at: datetime
    verified: bool


@dataclass(frozen=True, slots=True)
class ChunkSpan:
    """Which part of its document a chunk is. Positions are in code points; `end` is not included."""

    index: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk as it is shown. `sha256` is that of the text when it was written."""

    key: UUID
    document: str
    position: int
    start: int
    end: int
    text: str
    sha256: bytes
    source: str | None
    metadata: Metadata
    indexed_at: datetime
    is_verified: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_verified", text_sha256(self.text) == self.sha256)

    @property
    def provenance(self) -> Provenance:
        return Provenance(self.sha256.hex(), self.source, self.indexed_at, self.is_verified)

    @property
    def span(self) -> ChunkSpan:
        return ChunkSpan(self.position, self.start, self.end)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A version that a store does not have yet, or still has although it is deleted."""

    key: UUID
    index: Index
    is_pending: bool


def text_sha256(words: str) -> bytes:
    return sha256(words.encode()).digest()


class VersionGone(GreenLangError):
    """The version whose chunks were to be taken over was replaced meanwhile. Nothing was written."""


class Documents:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def newest(self, collection: Collection, ids: Sized[str]) -> dict[str, Version]:
        """Returns the newest version of each of these documents that exists."""
        async with self._sessions.read(primary=True) as session:
            rows = await session.execute(_NEWEST, {"collection": collection.key, "ids": list(ids)})
        return {
            row.id: Version(
                UUID(int=row.key.int),
                row.id,
                row.state == "pending",
                row.sha256,
                row.source,
                _json(row.metadata),
                row.vector_sha256,
            )
            for row in rows
        }

    async def write(self, collection: Collection, documents: Sequence[NewDocument]) -> None:
        """Writes versions as pending, all or none. Raises Refused(NotFound) if the collection is deleted, VersionGone."""
        async with self._sessions.write() as session:
            await _lock(session, collection)
            values = {"collection": collection.key, "ids": [document.id for document in documents]}
            added: int = (await session.execute(_COUNT_ABSENT, values)).scalar_one()
            await session.execute(_REPLACE_PENDING, values)
            await session.execute(_INSERT_DOCUMENTS, values | _document_columns(documents))
            await session.execute(_INSERT_CHUNKS, {"collection": collection.key} | _chunk_columns(documents))
            await _copy_chunks(session, documents)
            if added:
                await session.execute(_ADD_TO_COUNT, {"collection": collection.key, "added": added})

    async def finish(self, collection: UUID, keys: Sequence[UUID]) -> None:
        """Makes pending versions ready, and deletes those that they replace. Versions that are not pending any more are left
        alone."""
        async with self._sessions.write() as session:
            values = {"collection": collection, "keys": list(keys)}
            await session.execute(_LOCK, values)
            await session.execute(_DELETE_REPLACED, values)
            await session.execute(_MAKE_READY, values)

    async def delete(self, collection: Collection, ids: Sequence[str]) -> int:
        """Marks documents as deleted and returns how many there were."""
        async with self._sessions.write() as session:
            await _lock(session, collection)
            values = {"collection": collection.key, "ids": list(ids)}
            deleted: int = (await session.execute(_MARK_DELETED, values)).scalar_one()
            if deleted:
                await session.execute(_ADD_TO_COUNT, {"collection": collection.key, "added": -deleted})
            return deleted

    async def read(self, collection: Collection, keys: Sequence[UUID]) -> dict[UUID, StoredChunk]:
        """Returns the chunks with these keys that belong to the collection, its tenant, and a version that is ready."""
        values = {"collection": collection.key, "tenant": collection.tenant, "keys": list(keys)}
        async with self._sessions.read(primary=True) as session:
            rows = (await session.execute(_READ, values)).all()
        return {
            (key := UUID(int=row.key.int)): StoredChunk(
                key,
                row.id,
                row.position,
                row.start_at,
                row.end_at,
                row.text,
                row.sha256,
                row.source,
                _json(row.metadata),
                row.changed_at,
            )
            for row in rows
        }

    async def chunks_of(self, documents: Sequence[UUID]) -> list[IndexedChunk]:
        """Returns the chunks of these versions as their store has them."""
        async with self._sessions.read(primary=True) as session:
            rows = (await session.execute(_CHUNKS_OF, {"documents": list(documents)})).all()
        return [
            IndexedChunk(UUID(int=row.key.int), vector_from_bytes(row.vector), filterable(_json(row.metadata))) for row in rows
        ]

    async def chunks(self, keys: Sequence[UUID]) -> list[IndexedChunk]:
        """Returns chunks by their own keys."""
        async with self._sessions.read(primary=True) as session:
            rows = (await session.execute(_CHUNKS, {"keys": list(keys)})).all()
        return [
            IndexedChunk(UUID(int=row.key.int), vector_from_bytes(row.vector), filterable(_json(row.metadata))) for row in rows
        ]

    async def chunk_keys_of(self, documents: Sequence[UUID]) -> list[UUID]:
        async with self._sessions.read(primary=True) as session:
            rows = (await session.execute(_CHUNK_KEYS_OF, {"documents": list(documents)})).all()
        return [UUID(int=row.key.int) for row in rows]

    async def unfinished(self, store: str, limit: int) -> list[Unfinished]:
        """Returns versions in this store that are not ready, the oldest first. Young pending ones belong to a call that runs."""
        async with self._sessions.read(primary=True) as session:
            rows = (await session.execute(_UNFINISHED, {"store": store, "age": _PENDING_AGE, "limit": limit})).all()
        return [
            Unfinished(
                UUID(int=row.key.int),
                Index(UUID(int=row.collection.int), row.tenant, row.dimensions, Distance(row.distance)),
                is_pending=row.state == "pending",
            )
            for row in rows
        ]

    async def pending_counts(self) -> dict[str, int]:
        """Returns how many pending documents each store has."""
        async with self._sessions.read() as session:
            return {row.store: row.pending for row in await session.execute(_PENDING_COUNTS)}

    async def drift_counts(self) -> dict[str, int]:
        """Returns how many chunks of each store differed when they were last compared."""
        async with self._sessions.read() as session:
            return {row.store: int(row.drift) for row in await session.execute(_DRIFT_COUNTS)}

    async def forget(self, documents: Sequence[UUID]) -> None:
        """Removes deleted versions with their chunks. Call it after the store has removed them."""
        async with self._sessions.write() as session:
            await session.execute(_FORGET, {"documents": list(documents)})


async def _lock(session: WriteSession, collection: Collection) -> None:
    """Transactions that change the documents of a collection run one after the other, so its count is exact. Raises
    Refused(NotFound) if the collection is deleted."""
    if (await session.execute(_LOCK, {"collection": collection.key})).first() is None:
        raise Refused(NO_SUCH_COLLECTION)


async def _copy_chunks(session: WriteSession, documents: Sequence[NewDocument]) -> None:
    """Raises VersionGone."""
    pairs = [(document.key, document.copies) for document in documents if document.copies is not None]
    if pairs:
        values = {"documents": [key for key, _ in pairs], "copies": [copies for _, copies in pairs]}
        copied = {UUID(int=row.document.int) for row in await session.execute(_COPY_CHUNKS, values)}
        if len(copied) != len(pairs):
            raise VersionGone


def _json(words: str | None) -> Any:
    return None if words is None else json.loads(words)


def _document_columns(documents: Sequence[NewDocument]) -> dict[str, object]:
    return {
        "keys": [document.key for document in documents],
        "hashes": [document.sha256 for document in documents],
        "sources": [document.source for document in documents],
        "metadata": [None if document.metadata is None else json.dumps(document.metadata) for document in documents],
        "vector_hashes": [document.vector_sha256 for document in documents],
    }


def _chunk_columns(documents: Sequence[NewDocument]) -> dict[str, object]:
    chunks = [(document.key, position, chunk) for document in documents for position, chunk in enumerate(document.chunks)]
    return {
        "keys": [chunk.key for _, _, chunk in chunks],
        "documents": [document for document, _, _ in chunks],
        "positions": [position for _, position, _ in chunks],
        "starts": [chunk.start for _, _, chunk in chunks],
        "ends": [chunk.end for _, _, chunk in chunks],
        "texts": [chunk.text for _, _, chunk in chunks],
        "hashes": [text_sha256(chunk.text) for _, _, chunk in chunks],
        "vectors": [vector_to_bytes(chunk.vector) for _, _, chunk in chunks],
    }


_LOCK = text("select /* documents.lock */ 1 from collections where key = :collection and deleted_at is null for no key update")
# The statements look rows up by key, one by one: `offset 0` and `array(select …)` keep the planner from joining whole
# collections, which it does while a table that has just grown has no statistics.
_NEWEST = text(
    "select /* documents.newest */"
    " distinct on (id) key, id, state, sha256, source, cast(metadata as text) as metadata, vector_sha256 from documents"
    " where collection = :collection and id = any(:ids) and state in ('ready', 'pending') order by id, state"
)
_COUNT_ABSENT = text(
    "select /* documents.count_absent */ count(*) from unnest(cast(:ids as text[])) asked (id) where (select 1 from documents d"
    " where d.collection = :collection and d.id = asked.id and d.state in ('ready', 'pending') limit 1) is null"
)
_REPLACE_PENDING = text(
    "update /* documents.replace_pending */ documents set state = 'deleted', changed_at = now()"
    " where collection = :collection and id = any(:ids) and state = 'pending'"
)
_INSERT_DOCUMENTS = text(
    "insert /* documents.insert_documents */ into documents (key, collection, id, state, sha256, source, metadata, vector_sha256)"
    " select d.key, :collection, d.id, 'pending', d.sha256, d.source, cast(d.metadata as json), d.vector_sha256"
    " from unnest(cast(:keys as uuid[]), cast(:ids as text[]), cast(:hashes as bytea[]), cast(:sources as text[]),"
    " cast(:metadata as text[]), cast(:vector_hashes as bytea[])) d (key, id, sha256, source, metadata, vector_sha256)"
)
_INSERT_CHUNKS = text(
    "insert /* documents.insert_chunks */"
    " into chunks (key, document, collection, position, start_at, end_at, text, sha256, vector)"
    " select c.key, c.document, :collection, c.position, c.start_at, c.end_at, c.text, c.sha256, c.vector"
    " from unnest(cast(:keys as uuid[]), cast(:documents as uuid[]), cast(:positions as integer[]), cast(:starts as integer[]),"
    " cast(:ends as integer[]), cast(:texts as text[]), cast(:hashes as bytea[]), cast(:vectors as bytea[]))"
    " c (key, document, position, start_at, end_at, text, sha256, vector)"
)
_COPY_CHUNKS = text(
    "insert /* documents.copy_chunks */ into chunks (key, document, collection, position, start_at, end_at, text, sha256, vector)"
    " select gen_random_uuid(), asked.document, c.collection, c.position, c.start_at, c.end_at, c.text, c.sha256, c.vector"
    " from unnest(cast(:documents as uuid[]), cast(:copies as uuid[])) asked (document, copies)"
    " cross join lateral (select * from chunks where document = asked.copies offset 0) c returning document"
)
_ADD_TO_COUNT = text(
    "update /* documents.add_to_count */ collections set document_count = document_count + :added where key = :collection"
)
_DELETE_REPLACED = text(
    "update /* documents.delete_replaced */ documents set state = 'deleted', changed_at = now() where key = any(array("
    " select old.key from unnest(cast(:keys as uuid[])) wanted (key)"
    " cross join lateral (select * from documents d where d.key = wanted.key and d.state = 'pending' offset 0) new"
    " cross join lateral (select key from documents d"
    " where d.collection = new.collection and d.id = new.id and d.state = 'ready' offset 0) old))"
)
_MAKE_READY = text(
    "update /* documents.make_ready */"
    " documents set state = 'ready', changed_at = now() where key = any(:keys) and state = 'pending'"
)
_MARK_DELETED = text(
    "/* documents.mark_deleted */"
    " with marked as (update documents set state = 'deleted', changed_at = now() where key = any(array("
    " select key from documents where collection = :collection and id = any(:ids) and state in ('ready', 'pending')))"
    " returning id) select count(distinct id) from marked"
)
_READ = text(
    "select /* documents.read */"
    " c.key, d.id, c.position, c.start_at, c.end_at, c.text, c.sha256, d.source, cast(d.metadata as text) as metadata,"
    " d.changed_at from unnest(cast(:keys as uuid[])) wanted (key)"
    " cross join lateral (select * from chunks where chunks.key = wanted.key offset 0) c"
    " cross join lateral (select * from documents where documents.key = c.document offset 0) d"
    " cross join lateral (select * from collections where collections.key = d.collection offset 0) l"
    " where d.state = 'ready' and l.key = :collection and l.tenant = :tenant and l.deleted_at is null"
)
_CHUNKS_OF = text(
    "select /* documents.chunks_of */"
    " c.key, c.vector, cast(d.metadata as text) as metadata from unnest(cast(:documents as uuid[])) wanted (key)"
    " cross join lateral (select * from documents where documents.key = wanted.key offset 0) d"
    " cross join lateral (select * from chunks where chunks.document = d.key offset 0) c"
)
_CHUNKS = text(
    "select /* documents.chunks */"
    " c.key, c.vector, cast(d.metadata as text) as metadata from unnest(cast(:keys as uuid[])) wanted (key)"
    " cross join lateral (select * from chunks where chunks.key = wanted.key offset 0) c"
    " cross join lateral (select * from documents where documents.key = c.document offset 0) d"
)
_CHUNK_KEYS_OF = text("select /* documents.chunk_keys_of */ key from chunks where document = any(:documents)")
_FORGET = text("delete /* documents.forget */ from documents where key = any(:documents) and state = 'deleted'")
_UNFINISHED = text(
    "select /* documents.unfinished */ d.key, d.state, d.collection, l.tenant, l.dimensions, l.distance from documents d"
    " join collections l on l.key = d.collection"
    " where d.state <> 'ready' and l.store = :store and l.deleted_at is null"
    " and (d.state = 'deleted' or d.changed_at < now() - cast(:age as interval))"
    " order by d.changed_at, d.key limit :limit"
)
_PENDING_COUNTS = text(
    "select /* documents.pending_counts */"
    " l.store, count(*) as pending from documents d join collections l on l.key = d.collection"
    " where d.state <> 'ready' and d.state = 'pending' and l.deleted_at is null group by l.store"
)
_DRIFT_COUNTS = text(
    "select /* documents.drift_counts */"
    " store, sum(drift) as drift from collections where drift is not null and deleted_at is null group by store"
)
