from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest
from sqlalchemy import text

from app.db.engines import Engines, build_engine, build_engines, build_stall_detector
from app.db.sessions import Sessions
from app.db.stall_detector import StallDetector
from app.db.urls import parse_database_url
from app.domain.errors import StoreUnavailable
from app.embedded.stores import PrivateStores
from app.settings import DatabaseSettings
from tests.processes import family, frozen

pytestmark = pytest.mark.anyio

DEADLINE_SECONDS = 15.0
"""Below half of what a statement may take."""


@pytest.fixture
async def engines(database_url: str) -> AsyncIterator[Engines]:
    engines = build_engines(database_url, [], DatabaseSettings())
    yield engines
    await engines.close()


def frozen_postgres(data_dir: Path) -> AbstractContextManager[None]:
    return frozen(family(int((data_dir / "postgres" / "postmaster.pid").read_text(encoding="utf-8").split()[0])))


class TestServerThatStandsStill:
    async def test_who_comes_later_is_informed_soon(self, engines: Engines, private_stores: PrivateStores) -> None:
        sessions = Sessions(engines)
        async with sessions.read() as session:
            await session.execute(text("select 1"))

        async def ask(kind: str) -> None:
            async with getattr(sessions, kind)() as session:
                await session.execute(text("select 1"))

        with frozen_postgres(private_stores.data_dir):
            asked = time.monotonic()
            answers = await asyncio.gather(*map(ask, ("read", "write", "statements")), return_exceptions=True)
            assert time.monotonic() - asked < DEADLINE_SECONDS
        assert [type(answer) for answer in answers] == [StoreUnavailable] * 3
        await ask("read")

    async def test_anyone_who_is_in_the_middle_is_informed_soon_and_nothing_is_written(
        self, engines: Engines, private_stores: PrivateStores
    ) -> None:
        sessions = Sessions(engines)

        async def write() -> None:
            async with sessions.write() as session:
                await session.execute(text("insert into maintenance values ('seen')"))
                with frozen_postgres(private_stores.data_dir):
                    await session.execute(text("insert into maintenance values ('seen too')"))

        asked = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await write()
        assert time.monotonic() - asked < DEADLINE_SECONDS
        async with sessions.read() as reading:
            assert (await reading.execute(text("select count(*) from maintenance where task like 'seen%'"))).scalar_one() == 0


class TestServerThatIsBusy:
    async def test_is_waited_for_while_it_answers_others(self, database_url: str) -> None:
        engine, detector = (
            build_engine(parse_database_url(database_url, "test"), DatabaseSettings()),
            _quick_detector(database_url),
        )
        async with detector.bounded(), engine.connect() as connection:
            await connection.execute(text("select pg_sleep(0.3)"))
        await detector.close()
        await engine.dispose()

    async def test_lives_while_it_answers_others_though_no_connection_is_left_to_ask_on(self, database_url: str) -> None:
        engine = build_engine(parse_database_url(database_url, "test"), DatabaseSettings())
        async with await asyncio.start_server(_say_nothing, "127.0.0.1", 0) as server:
            detector = _quick_detector(f"postgresql://nobody@127.0.0.1:{server.sockets[0].getsockname()[1]}/none")
            detector.look_seconds, detector.answer_seconds = 0.3, 0.3

            async def ask(statement: str) -> None:
                async with detector.bounded(), engine.connect() as connection:
                    await connection.execute(text(statement))

            waiting = asyncio.create_task(ask("select pg_sleep(2)"))
            while not waiting.done():
                await ask("select pg_sleep(0.01)")
            await waiting
            with pytest.raises(TimeoutError):
                await ask("select pg_sleep(2)")
            await detector.close()
        await engine.dispose()

    async def test_is_asked_once_however_many_wait(self, database_url: str) -> None:
        detector = _quick_detector(database_url)
        assert detector.ask() is detector.ask()
        assert await detector.ask()
        await detector.close()


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with closing(writer):
        await reader.read()


def _quick_detector(url: str) -> StallDetector:
    detector = build_stall_detector(parse_database_url(url, "test"), DatabaseSettings())
    detector.look_seconds = 0.02
    return detector
