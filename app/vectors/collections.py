"""Collections: named sets of documents of one tenant, each in one store and with vectors of one model and one length.

A deleted collection is gone for callers at once. Its store and its rows are emptied in the background, then its row goes too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.exc import IntegrityError

from app.db.sessions import Sessions
from app.domain.errors import Refused
from app.domain.ids import format_id, new_uuid
from app.domain.paging import Page, PageRequest, build_page, decode_cursor, encode_cursor
from app.domain.problems import Conflict, no_such
from app.runtime.clock import Clock
from app.vectors.store import Distance, Index

NO_SUCH_COLLECTION: Final = no_such("collection")
NO_MODEL = "none"
"""The embedding model of a collection whose callers bring all vectors."""
ID_KIND = "col"
_CURSOR = "collections"


@dataclass(frozen=True, slots=True)
class NewCollection:
    """`shortened`: the caller chose the dimensions, so the model is asked for them."""

    name: str
    store: str
    embedding_model: str
    dimensions: int
    distance: Distance
    shortened: bool


@dataclass(frozen=True, slots=True)
class Collection:
    """`document_count` counts the documents that were accepted, also those that their store does not have yet."""

    key: UUID
    tenant: str
    name: str
    store: str
    embedding_model: str
    dimensions: int
    distance: Distance
    shortened: bool
    document_count: int
    created_at: datetime

    @property
    def id(self) -> str:
        return format_id(ID_KIND, self.key)

    @property
    def index(self) -> Index:
        return Index(self.key, self.tenant, self.dimensions, self.distance)

    @property
    def asked_dimensions(self) -> int | None:
        """What an embedding call names as its dimensions. None leaves them to the model."""
        return self.dimensions if self.shortened else None


class Collections:
    """Every read names its tenant."""

    def __init__(self, sessions: Sessions, clock: Clock) -> None:
        self._sessions = sessions
        self._clock = clock

    async def create(self, tenant: str, new: NewCollection, key: UUID) -> Collection:
        """Raises Refused(Conflict) if the tenant has a collection with this name."""
        values = {
            "key": key,
            "tenant": tenant,
            "name": new.name,
            "store": new.store,
            "embedding_model": new.embedding_model,
            "dimensions": new.dimensions,
            "distance": new.distance.value,
            "shortened": new.shortened,
        }
        try:
            async with self._sessions.write() as session:
                return _read((await session.execute(_INSERT, values)).mappings().one())
        except IntegrityError as error:
            raise Refused(Conflict(f"A collection with the name {new.name!r} exists.")) from error

    def new_key(self) -> UUID:
        return new_uuid(self._clock.now())

    async def find(self, tenant: str, name: str) -> Collection | None:
        async with self._sessions.read(primary=True) as session:
            row = (await session.execute(_BY_NAME, {"tenant": tenant, "name": name})).mappings().first()
        return None if row is None else _read(row)

    async def get(self, tenant: str, name: str) -> Collection:
        """Raises Refused(NotFound)."""
        found = await self.find(tenant, name)
        if found is None:
            raise Refused(NO_SUCH_COLLECTION)
        return found

    async def by_key(self, tenant: str, key: UUID) -> Collection | None:
        async with self._sessions.read(primary=True) as session:
            row = (await session.execute(_BY_KEY, {"tenant": tenant, "key": key})).mappings().first()
        return None if row is None else _read(row)

    async def page(self, tenant: str, request: PageRequest) -> Page[Collection]:
        """Returns the collections of a tenant, sorted by name."""
        after = None if request.after is None else decode_cursor(_CURSOR, request.after, 1)[0]
        values = {"tenant": tenant, "after": after, "limit": request.first + 1}
        async with self._sessions.read() as session:
            found = [_read(row) for row in (await session.execute(_PAGE, values)).mappings()]
        return build_page(request, found, lambda collection: encode_cursor(_CURSOR, collection.name))

    async def delete(self, tenant: str, name: str) -> UUID:
        """Returns the key of the deleted collection. Raises Refused(NotFound)."""
        async with self._sessions.write() as session:
            key: UUID | None = (await session.execute(_DELETE, {"tenant": tenant, "name": name})).scalar()
        if key is None:
            raise Refused(NO_SUCH_COLLECTION)
        return UUID(int=key.int)

    async def deleted(self) -> Sequence[Collection]:
        """Returns collections that are deleted and not yet emptied, of all tenants."""
        async with self._sessions.read(primary=True) as session:
            return [_read(row) for row in (await session.execute(_DELETED)).mappings()]

    async def live(self) -> Sequence[Collection]:
        """Returns the collections of all tenants, in the order of their keys."""
        async with self._sessions.read(primary=True) as session:
            return [_read(row) for row in (await session.execute(_LIVE)).mappings()]

    async def empty(self, key: UUID, limit: int) -> bool:
        """Removes up to `limit` documents of a deleted collection, and its row when none is left. Returns whether it is gone."""
        values = {"key": key, "limit": limit}
        async with self._sessions.write() as session:
            await session.execute(_EMPTY, values)
            return (await session.execute(_FORGET, values)).first() is not None


_INSERT = text(
    "insert /* collections.insert */"
    " into collections (key, tenant, name, store, embedding_model, dimensions, distance, shortened)"
    " values (:key, :tenant, :name, :store, :embedding_model, :dimensions, :distance, :shortened)"
    " returning *"
)
_BY_NAME = text(
    "select /* collections.by_name */ * from collections where tenant = :tenant and name = :name and deleted_at is null"
)
_BY_KEY = text("select /* collections.by_key */ * from collections where tenant = :tenant and key = :key and deleted_at is null")
_PAGE = text(
    "select /* collections.page */ * from collections where tenant = :tenant and deleted_at is null"
    " and (cast(:after as text) is null or name > :after) order by name limit :limit"
)
_DELETE = text(
    "update /* collections.delete */"
    " collections set deleted_at = now() where tenant = :tenant and name = :name and deleted_at is null returning key"
)
_DELETED = text("select /* collections.deleted */ * from collections where deleted_at is not null order by deleted_at limit 100")
_LIVE = text("select /* collections.live */ * from collections where deleted_at is null order by key")
_EMPTY = text(
    "delete /* collections.empty */"
    " from documents where key in (select key from documents where collection = :key limit :limit for update skip locked)"
)
_FORGET = text(
    "delete /* collections.forget */ from collections where key = :key and deleted_at is not null"
    " and not exists (select from documents where collection = :key) returning key"
)


def _read(row: RowMapping) -> Collection:
    return Collection(
        key=UUID(int=row["key"].int),
        tenant=row["tenant"],
        name=row["name"],
        store=row["store"],
        embedding_model=row["embedding_model"],
        dimensions=row["dimensions"],
        distance=Distance(row["distance"]),
        shortened=row["shortened"],
        document_count=row["document_count"],
        created_at=row["created_at"],
    )
