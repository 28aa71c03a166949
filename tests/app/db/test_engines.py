from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.errors import StoreUnavailable
from app.settings import DatabaseSettings

pytestmark = pytest.mark.anyio


class TestStatementThatWaitsForALock:
    async def test_is_ended_after_the_limit_and_the_store_counts_as_unavailable(self, database_url: str) -> None:
        engines = build_engines(database_url, [], DatabaseSettings(lock_timeout=timedelta(milliseconds=50)))
        sessions, change = Sessions(engines), text("update maintenance set task = task")
        async with sessions.write() as session:
            await session.execute(change)
            with pytest.raises(StoreUnavailable, match="PostgreSQL"):
                async with sessions.write() as other:
                    await other.execute(change)
        await engines.close()


class TestStatementThatFails:
    async def test_is_named_without_its_values(self, postgres_url: str) -> None:
        engines = build_engines(postgres_url, [], DatabaseSettings())
        with pytest.raises(DBAPIError, match="division by zero") as failed:
            async with Sessions(engines).read() as session:
                await session.execute(text("select cast(:words as text), 1 / 0"), {"words": "Quixalorne"})
        await engines.close()
        assert "Quixalorne" not in str(failed.value)
        assert "cast" in str(failed.value).lower()
