from __future__ import annotations

import asyncio
import gc

import pytest
from sqlalchemy import text

from app.db.engines import build_engines
from app.settings import DatabaseSettings

pytestmark = pytest.mark.anyio


async def test_a_connection_cancelled_at_any_moment_of_its_opening_leaves_no_fault_and_no_connection(database_url: str) -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    watcher = build_engines(database_url, [], DatabaseSettings())
    engines = build_engines(database_url, [], DatabaseSettings())
    for turns in range(12):
        asking = asyncio.ensure_future(engines.primary.connect().start())
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    await engines.close()
    gc.collect()
    async with watcher.primary.connect() as connection:
        others = await connection.scalar(
            text("select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
        )
    await watcher.close()
    assert (faults, others) == ([], 0)
