"""The tier in PostgreSQL, for answers that are worth keeping. It survives every restart, and it is the slowest."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

from sqlalchemy import text

from app.cache.entries import Entry, EntryCodec
from app.cache.keys import EntryKey
from app.cache.tier import TierSize
from app.db.sessions import ReadSession, Sessions, WriteSession
from app.domain.errors import StoreUnavailable
from app.domain.usage import CacheTier

_DELETED_AT_ONCE = 1000
_log = logging.getLogger(__name__)


class PostgresTier:
    name = CacheTier.POSTGRES

    def __init__(self, sessions: Sessions, codec: EntryCodec) -> None:
        self._sessions = sessions
        self._codec = codec
        self._is_away = False

    @property
    def available(self) -> bool:
        return not self._is_away

    async def get(self, key: EntryKey) -> Entry | None:
        """Removes a damaged entry."""
        with self._noting():
            stored = await self._sessions.value(_GET, key.tenant, key.name)
        if not isinstance(stored, bytes):
            return None
        entry = self._codec.decode(key, stored)
        if entry is None:
            await self.remove(key.tenant, [key.name])
        return entry

    async def put(self, key: EntryKey, entry: Entry, seconds: float) -> None:
        async with self._write() as session:
            await session.execute(
                _PUT,
                {
                    "tenant": key.tenant,
                    "name": key.name,
                    "value": self._codec.encode(key, entry),
                    "tags": list(entry.tags),
                    "kept": timedelta(seconds=seconds),
                },
            )

    async def remove(self, tenant: str, names: Sequence[str]) -> None:
        async with self._write() as session:
            await session.execute(_REMOVE, {"tenant": tenant, "names": list(names)})

    async def tags_by_name(self, tenant: str) -> Mapping[str, Sequence[str]]:
        async with self._read() as session:
            rows = await session.execute(_TAGS, {"tenant": tenant})
            return {row.name: row.tags for row in rows}

    async def size(self) -> TierSize:
        async with self._read(primary=False) as session:
            row = (await session.execute(_SIZE)).one()
        return TierSize(row.entries, row.bytes, row.evictions)

    async def delete_excess(self, max_bytes: int) -> None:
        """Deletes expired entries, then those that expire first, until the rest fits. Raises StoreUnavailable."""
        async with self._write() as session:
            while (await session.execute(_DELETE_EXPIRED, {"most": _DELETED_AT_ONCE})).rowcount == _DELETED_AT_ONCE:
                pass
            await session.execute(_DELETE_EXCESS, {"max_bytes": max_bytes})

    @asynccontextmanager
    async def _read(self, *, primary: bool = True) -> AsyncIterator[ReadSession]:
        with self._noting():
            async with self._sessions.read(primary=primary) as session:
                yield session

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[WriteSession]:
        with self._noting():
            async with self._sessions.statements() as session:
                yield session

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Notes whether PostgreSQL is away, with one line in the log for each change."""
        try:
            yield
        except StoreUnavailable:
            if not self._is_away:
                _log.warning("the cache's tier in PostgreSQL does not answer")
            self._is_away = True
            raise
        if self._is_away:
            _log.warning("the cache's tier in PostgreSQL answers again")
        self._is_away = False


_GET = "select /* cache.get */ value from cache_entries where tenant = $1 and name = $2 and expires_at > clock_timestamp()"
_PUT = text(
    "insert /* cache.put */ into cache_entries (tenant, name, value, tags, bytes, expires_at)"
    " values (:tenant, :name, :value, :tags, length(cast(:value as bytea)), clock_timestamp() + :kept)"
    " on conflict (tenant, name) do update set value = excluded.value, tags = excluded.tags, bytes = excluded.bytes,"
    " expires_at = excluded.expires_at"
)
_REMOVE = text("delete /* cache.remove */ from cache_entries where tenant = :tenant and name = any(:names)")
_TAGS = text("select /* cache.tags */ name, tags from cache_entries where tenant = :tenant and expires_at > clock_timestamp()")
_SIZE = text(
    "select /* cache.size */ count(*) as entries, coalesce(sum(bytes), 0)::bigint as bytes,"
    " coalesce((select evictions from cache_evictions), 0) as evictions from cache_entries"
)
_DELETE_EXPIRED = text(
    "delete /* cache.delete_expired */ from cache_entries where (tenant, name) in"
    " (select tenant, name from cache_entries where expires_at <= clock_timestamp() limit :most)"
)
_DELETE_EXCESS = text(
    "/* cache.delete_excess */ with excess as (select tenant, name from"
    " (select tenant, name, sum(bytes) over (order by expires_at desc, tenant, name) as total from cache_entries) counted"
    " where total > :max_bytes),"
    " deleted as (delete from cache_entries e using excess x where e.tenant = x.tenant and e.name = x.name returning 1)"
    " update cache_evictions set evictions = evictions + (select count(*) from deleted)"
)
