from __future__ import annotations

import asyncio
from contextlib import closing, suppress
from datetime import timedelta
from urllib.parse import urlsplit

import asyncpg
import pytest

from app.costs.statements import Statements
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.errors import StoreUnavailable
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio


class TestStatements:
    async def test_a_lost_connection_is_replaced(self, sessions: Sessions) -> None:
        statements = Statements(sessions.engines, SystemClock(), timedelta(seconds=5))
        pid = (await statements.fetch("select pg_backend_pid()"))[0][0]
        await kill(sessions, pid)
        assert (await statements.fetch("select pg_backend_pid()"))[0][0] != pid
        await statements.close()

    async def test_one_that_was_asked_to_end_but_has_not_ended_yet_is_replaced_too(
        self, sessions: Sessions, database_url: str
    ) -> None:
        server, done = urlsplit(database_url), asyncio.Event()

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with closing(writer):
                while data := await reader.read(65536):
                    writer.write(data)
                await done.wait()

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            behind, ahead = await asyncio.open_connection(server.hostname, server.port)
            await asyncio.gather(pump(reader, ahead), pump(behind, writer), return_exceptions=True)

        async with await asyncio.start_server(carry, "127.0.0.1", 0) as relay:
            netloc = f"{server.netloc.rpartition(':')[0]}:{relay.sockets[0].getsockname()[1]}"
            engines = build_engines(server._replace(netloc=netloc).geturl(), [], DatabaseSettings())
            statements = Statements(engines, SystemClock(), timedelta(seconds=5))
            pid = (await statements.fetch("select pg_backend_pid()"))[0][0]
            await kill(sessions, pid)
            assert (await statements.fetch("select pg_backend_pid()"))[0][0] != pid
            done.set()
            await statements.close()
            await engines.close()

    async def test_a_wrong_statement_is_not_repeated(self, sessions: Sessions) -> None:
        statements = Statements(sessions.engines, SystemClock(), timedelta(seconds=5))
        with pytest.raises(asyncpg.UndefinedTableError):
            await statements.fetch("select * from nowhere")
        assert (await statements.fetch("select 1"))[0][0] == 1
        await statements.close()

    async def test_a_collision_is_repeated(self, owner: Sessions) -> None:
        statements = Statements(owner.engines, SystemClock(), timedelta(seconds=5))
        await statements.fetch("create sequence turns")
        await statements.fetch(
            "create function collide() returns bigint language plpgsql as $$ begin"
            " if nextval('turns') < 3 then raise exception 'met another' using errcode = 'deadlock_detected'; end if;"
            " return currval('turns'); end $$"
        )
        assert (await statements.fetch("select collide()"))[0][0] == 3
        await statements.close()

    async def test_patience_ends_where_no_one_answers(self) -> None:
        engines = build_engines("postgresql://nobody@127.0.0.1:1/none", [], DatabaseSettings())
        clock = ManualClock()
        waiting = asyncio.create_task(Statements(engines, clock, timedelta(seconds=2)).fetch("select 1"))
        async with asyncio.timeout(20):
            while not waiting.done():
                await clock.advance(0.1)
                await asyncio.sleep(0.01)
        with pytest.raises(StoreUnavailable):
            await waiting
        await engines.close()

    async def test_patience_ends_where_the_server_stands_still(self, database_url: str) -> None:
        server, hears, carried = urlsplit(database_url), asyncio.Event(), asyncio.Semaphore(0)
        connections: list[asyncio.StreamWriter] = []

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with closing(writer):
                while data := await reader.read(65536):
                    await hears.wait()
                    writer.write(data)

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(writer)
            behind, ahead = await asyncio.open_connection(server.hostname, server.port)
            await asyncio.gather(pump(reader, ahead), pump(behind, writer), return_exceptions=True)
            for each in (ahead, writer):
                with suppress(OSError):
                    await each.wait_closed()
            carried.release()

        async with await asyncio.start_server(carry, "127.0.0.1", 0) as relay:
            netloc = f"{server.netloc.rpartition(':')[0]}:{relay.sockets[0].getsockname()[1]}"
            engines = build_engines(server._replace(netloc=netloc).geturl(), [], DatabaseSettings())
            hears.set()
            async with engines.primary.connect():
                pass
            hears.clear()
            async with asyncio.timeout(8):
                with pytest.raises(StoreUnavailable):
                    await Statements(engines, SystemClock(), timedelta(seconds=1)).fetch("select 1")
            hears.set()
            await engines.close()
            for _ in connections:
                await carried.acquire()


async def kill(sessions: Sessions, pid: int) -> None:
    async with sessions.write() as session:
        await session.exec_driver_sql(f"select pg_terminate_backend({pid})")
