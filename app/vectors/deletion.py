"""Deletes documents by their ids, or by what their metadata says."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import Select, Text, cast, column, func, literal, select, table
from sqlalchemy.dialects.postgresql import JSONB

from app.db.sessions import Sessions
from app.vectors.collections import Collection
from app.vectors.documents import Documents
from app.vectors.filter_sql import filter_condition
from app.vectors.filters import Filter, filterable, matches

_PAGE = 1000
_DOCUMENTS = table("documents", column("collection"), column("id"), column("state"), column("metadata"))


class Deletion:
    def __init__(self, sessions: Sessions, documents: Documents) -> None:
        self._sessions = sessions
        self._documents = documents

    async def by_ids(self, collection: Collection, ids: Sequence[str]) -> int:
        """Returns how many documents were deleted. Raises Refused(NotFound) if the collection is deleted."""
        return await self._documents.delete(collection, ids)

    async def by_filter(self, collection: Collection, where: Filter) -> int:
        """Returns how many documents were deleted. Documents that come while it works may stay."""
        deleted, after = 0, ""
        while True:
            asked = self._page(collection, where, after)
            async with self._sessions.read(primary=True) as session:
                rows = (await session.execute(asked)).all()
            ids = [row.id for row in rows if matches(where, filterable(json.loads(row.fields or "{}")))]
            if ids:
                deleted += await self._documents.delete(collection, ids)
            if len(rows) < _PAGE:
                return deleted
            after = rows[-1].id

    def _page(self, collection: Collection, where: Filter, after: str) -> Select[tuple[str, str]]:
        rows = _DOCUMENTS.c
        return (
            select(rows.id, cast(cast(rows.metadata, JSONB), Text).label("fields"))
            .where(rows.collection == collection.key, rows.state.in_(("ready", "pending")), rows.id > after)
            .where(filter_condition(where, func.coalesce(cast(rows.metadata, JSONB), cast(literal("{}", Text), JSONB))))
            .distinct()
            .order_by(rows.id)
            .limit(_PAGE)
        )
