from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.settings import DatabaseSettings

pytestmark = pytest.mark.anyio


class TestStatementThatFails:
    async def test_is_named_without_its_values(self, postgres_url: str) -> None:
        engines = build_engines(postgres_url, [], DatabaseSettings())
        with pytest.raises(DBAPIError, match="division by zero") as failed:
            async with Sessions(engines).read() as session:
                await session.execute(text("select cast(:words as text), 1 / 0"), {"words": "Quixalorne"})
        await engines.close()
        assert "Quixalorne" not in str(failed.value)
        assert "cast" in str(failed.value).lower()
