from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis

from app.domain.errors import StoreUnavailable
from app.events.stream_log import LogPage, LogWrite, StreamLog
from app.redis.clients import connect_redis
from app.runtime.clock import SystemClock
from app.runtime.process_identity import identity
from app.settings import RedisSettings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server(valkey_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(valkey_url) as connected:
        yield connected


@pytest.fixture
async def log(valkey_url: str) -> AsyncIterator[StreamLog]:
    client = connect_redis(valkey_url, RedisSettings(), SystemClock())
    yield StreamLog(client)
    await client.close()


def entries(*numbers: int) -> list[tuple[int, bytes]]:
    return [(number, b"%d" % number) for number in numbers]


async def read(log: StreamLog, key: UUID, after: int = 0) -> LogPage:
    (page,) = await log.read([(key, after)])
    return page


class TestEntries:
    async def test_come_back_in_order_after_a_number(self, log: StreamLog) -> None:
        one, two = uuid4(), uuid4()
        await log.write([LogWrite(one, entries(1, 2), begins=True), LogWrite(two, entries(1), begins=True)])
        await log.write([LogWrite(one, entries(3))])
        first, second, third = await log.read([(one, 0), (one, 2), (two, 1)])
        assert (first.entries, second.entries, third.entries) == (tuple(entries(1, 2, 3)), tuple(entries(3)), ())
        assert not any(page.lost for page in (first, second, third))
        assert await log.newest(one) == (3, b"3")

    async def test_keep_what_was_first_under_a_number(self, log: StreamLog) -> None:
        key = uuid4()
        await log.write([LogWrite(key, entries(1, 2))])
        await log.write([LogWrite(key, [(2, b"other"), (3, b"3")])])
        assert (await read(log, key)).entries == tuple(entries(1, 2, 3))

    async def test_are_never_shown_over_a_gap(self, log: StreamLog) -> None:
        key = uuid4()
        await log.write([LogWrite(key, entries(1, 2, 5))])
        assert await read(log, key) == LogPage(tuple(entries(1, 2)))
        assert await read(log, key, 2) == LogPage((), lost=True)

    async def test_of_an_earlier_run_are_dropped_when_a_new_one_begins(self, log: StreamLog) -> None:
        key = uuid4()
        await log.write([LogWrite(key, entries(1, 2, 3), begins=True, ends=True)])
        await log.cancel(key)
        await log.write([LogWrite(key, entries(1), begins=True)])
        assert (await read(log, key)).entries == tuple(entries(1))
        assert await log.renew([key]) == set()

    async def test_of_no_log_are_none(self, log: StreamLog) -> None:
        key = uuid4()
        assert await read(log, key) == LogPage(())
        assert await log.newest(key) is None

    async def test_are_forgotten_a_while_after_the_end(self, valkey_url: str, server: Redis) -> None:
        client = connect_redis(valkey_url, RedisSettings(), SystemClock())
        key = uuid4()
        await StreamLog(client, timedelta(seconds=60)).write([LogWrite(key, entries(1), begins=True)])
        (name,) = [name async for name in server.scan_iter(f"*{key.hex}}}")]
        assert await server.ttl(name) > 60
        await StreamLog(client, timedelta(seconds=60)).write([LogWrite(key, entries(2), ends=True)])
        assert 0 < await server.ttl(name) <= 60
        await client.close()


class TestLease:
    async def test_is_held_from_the_beginning_to_the_end(self, log: StreamLog) -> None:
        key = uuid4()
        assert not await log.is_owned(key)
        await log.write([LogWrite(key, begins=True)])
        assert await log.is_owned(key)
        await log.write([LogWrite(key, entries(1), ends=True)])
        assert not await log.is_owned(key)

    async def test_runs_out_where_no_one_renews_it(self, log: StreamLog, server: Redis) -> None:
        key = uuid4()
        await log.write([LogWrite(key, begins=True)])
        (name,) = [name async for name in server.scan_iter(f"*{key.hex}*lease")]
        await server.pexpire(name, 30)
        await asyncio.sleep(0.05)
        assert not await log.is_owned(key)
        await log.renew([key])
        assert 4000 < await server.pttl(name) <= 5000

    async def test_is_taken_from_a_dead_owner_once_and_never_from_another(self, valkey_url: str, log: StreamLog) -> None:
        client = connect_redis(valkey_url, RedisSettings(), SystemClock())
        key, (machine_and_process, _, _) = uuid4(), identity().rpartition(" ")
        assert not await log.take_lease_of_dead_owner(key)
        await StreamLog(client, owner=f"{machine_and_process} 1").write([LogWrite(key, begins=True)])
        looked = await asyncio.gather(*(log.take_lease_of_dead_owner(key) for _ in range(5)))
        assert sorted(looked) == [False] * 4 + [True]
        await log.write([LogWrite(key, begins=True)])
        assert not await log.take_lease_of_dead_owner(key)
        assert await log.is_owned(key)
        await client.close()

    async def test_brings_the_wish_to_cancel(self, log: StreamLog) -> None:
        wanted, other = uuid4(), uuid4()
        await log.cancel(wanted)
        assert await log.renew([wanted, other]) == {wanted}


class TestRedisAway:
    async def test_is_said(self) -> None:
        client = connect_redis("redis://127.0.0.1:1/0", RedisSettings(), SystemClock())
        log = StreamLog(client)
        for asking in (
            log.write([LogWrite(uuid4(), entries(1))]),
            log.read([(uuid4(), 0)]),
            log.newest(uuid4()),
            log.cancel(uuid4()),
        ):
            with pytest.raises(StoreUnavailable):
                await asking
        await client.close()
