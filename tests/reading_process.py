"""What a server process needs to see its own writes, and the same as a process of its own:

    python -m tests.reading_process URL REDIS_URL

It answers each line `KEY TASK` on its input with `TASK SERVER`: the role of the server that has shown the row of this task to a
read of this key, or `none` if the row was not there. Its first line says that it knows the servers.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import text

from app.db.engines import Engines, build_engines
from app.db.own_writes import CALLER, Caller, OwnWrites
from app.db.sessions import Sessions
from app.redis.clients import RedisClient, connect_redis
from app.redis.own_positions import OwnPositions
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings, RedisSettings

STALENESS = timedelta(seconds=10)
ANSWER_SECONDS = 30.0
READY = "ready\n"
_PORT_OF = text("select inet_server_port() from maintenance where task = :task")


@dataclass(frozen=True)
class Process:
    engines: Engines
    sessions: Sessions
    redis: RedisClient

    @property
    def primary_port(self) -> int:
        return self.engines.servers.known_primary().url.hosts[0].port

    async def port(self) -> int:
        async with self.sessions.read() as session:
            return int((await session.execute(text("select inet_server_port()"))).scalar_one())

    async def write(self, task: str) -> None:
        async with self.sessions.write() as session:
            await session.execute(text("insert into maintenance values (:task)"), {"task": task})

    async def shown(self, task: str) -> str:
        async with self.sessions.read() as session:
            row = (await session.execute(_PORT_OF, {"task": task})).first()
        if row is None:
            return "none"
        return "primary" if row[0] == self.primary_port else "replica"


@asynccontextmanager
async def open_process(url: str, redis_url: str) -> AsyncIterator[Process]:
    clock, engines = SystemClock(), build_engines(url, [], DatabaseSettings())
    redis = connect_redis(redis_url, RedisSettings(), clock)
    own_writes = OwnWrites(engines.servers, OwnPositions(redis), clock, STALENESS)
    assert engines.watch is not None
    await engines.watch.first_answers()
    async with asyncio.timeout(20):
        while not engines.servers.is_settled:  # noqa: ASYNC110 (the condition is another party's state)
            await asyncio.sleep(0.02)
    yield Process(engines, Sessions(engines, STALENESS, timedelta(milliseconds=100), own_writes), redis)
    await engines.close()
    await redis.close()


@dataclass
class OtherProcess:
    """Reads through another process than this one."""

    process: asyncio.subprocess.Process
    asked: dict[str, asyncio.Future[str]] = field(default_factory=dict)

    async def shown(self, key: str, task: str) -> str:
        assert self.process.stdin is not None
        answer = self.asked[task] = asyncio.get_running_loop().create_future()
        self.process.stdin.write(f"{key} {task}\n".encode())
        return await asyncio.wait_for(answer, ANSWER_SECONDS)

    async def take_answers(self) -> None:
        """Returns when the process has ended its output."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            task, server = line.decode().split()
            self.asked.pop(task).set_result(server)


@asynccontextmanager
async def start_other_process(url: str, redis_url: str) -> AsyncIterator[OtherProcess]:
    command = [sys.executable, "-m", "tests.reading_process", url, redis_url]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), ANSWER_SECONDS) == READY.encode()
    other = OtherProcess(process)
    answers = asyncio.create_task(other.take_answers())
    try:
        yield other
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), ANSWER_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
        await answers


async def _answer(process: Process, key: str, task: str) -> None:
    CALLER.set(Caller(key, may_write=True))
    sys.stdout.write(f"{task} {await process.shown(task)}\n")
    sys.stdout.flush()


async def _serve(url: str, redis_url: str) -> None:
    async with open_process(url, redis_url) as process, asyncio.TaskGroup() as answers:
        sys.stdout.write(READY)
        sys.stdout.flush()
        while line := await asyncio.to_thread(sys.stdin.readline):
            key, task = line.split()
            answers.create_task(_answer(process, key, task))


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
