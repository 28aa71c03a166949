"""Search by words, with the full text search of PostgreSQL. It works for every store, because the texts are in PostgreSQL.

A chunk matches if it has any of the words; more of them, and more often, rank higher. Words are compared by their English stems,
so `boilers` finds `boiler`. Words of other languages match as they are written, or nearly so.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Float, Select, Uuid, bindparam, column, select, text
from sqlalchemy.dialects.postgresql import JSONB

from app.db.sessions import Sessions
from app.vectors.collections import Collection
from app.vectors.filter_sql import filter_condition
from app.vectors.filters import Filter
from app.vectors.store import Hit

_MAX_WORDS = 200


class FullText:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def search(self, collection: Collection, words: str, count: int, where: Filter | None = None) -> Sequence[Hit]:
        """Returns the `count` best chunks that match, best first, ties by key. Fewer only if fewer match. Scores are between 0
        and 1. Raises StoreUnavailable."""
        async with self._sessions.read(primary=True) as session:
            query = (await session.execute(_QUERY, {"words": words, "limit": _MAX_WORDS})).scalar()
            if query is None:
                return []
            statement = _MATCHES if where is None else _MATCHES.where(filter_condition(where, _METADATA))
            values = {"query": query, "collection": collection.key, "tenant": collection.tenant, "count": count}
            rows = (await session.execute(statement, values)).all()
        return [Hit(UUID(int=row.key.int), row.score) for row in rows]


_METADATA = column("fields", JSONB)
_QUERY = text(
    "select string_agg('''' || replace(replace(lexeme, '\\\\', '\\\\\\\\'), '''', '''''') || '''', ' | ')"
    " from (select lexeme from unnest(to_tsvector('english', :words)) limit :limit) found"
)
"""The words as a tsquery, any of which may match. Null if there is none."""
_CHUNKS = text(
    "(select c.key, ts_rank(c.words, cast(:query as tsquery), 32) as score, cast(d.metadata as jsonb) as fields"
    " from chunks c join documents d on d.key = c.document join collections l on l.key = c.collection"
    " where c.collection = :collection and l.tenant = :tenant and l.deleted_at is null and d.state = 'ready'"
    " and c.words @@ cast(:query as tsquery)) matches"
)
_MATCHES: Select[UUID, float] = (
    select(column("key", Uuid), column("score", Float))
    .select_from(_CHUNKS)
    .order_by(column("score").desc(), column("key"))
    .limit(bindparam("count"))
)
