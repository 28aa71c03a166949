"""Who is given a provider's connection: at once, after waiting, and beside a greedy key."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from app.llm.providers.connection_pool import ConnectionPool
from app.web.capacity import Holder
from tests.clocks import settle

pytestmark = pytest.mark.anyio

GREEDY = Holder("a", "acme")
OTHER = Holder("b", "globex")
SIZE = 100


def fill(pool: ConnectionPool, holder: Holder) -> int:
    return next(taken for taken in count() if not pool.take(holder))


async def waiting(pool: ConnectionPool, holder: Holder) -> asyncio.Task[None]:
    task = asyncio.create_task(pool.wait(holder))
    await settle()
    return task


async def cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class TestAGreedyKey:
    async def test_leaves_connections_to_others(self) -> None:
        pool = ConnectionPool(SIZE)
        assert fill(pool, GREEDY) == 80
        waiters = [await waiting(pool, GREEDY) for _ in range(50)]
        assert pool.take(OTHER)
        assert pool.take(Holder("c", "acme"))
        for waiter in waiters:
            await cancel(waiter)

    async def test_has_all_it_had_once_it_is_alone_again(self) -> None:
        pool = ConnectionPool(SIZE)
        taken = fill(pool, GREEDY)
        for _ in range(taken):
            pool.give_back(GREEDY)
        assert fill(pool, GREEDY) == taken


class TestOneThatIsGivenNone:
    async def test_is_given_the_next_in_its_turn(self) -> None:
        pool = ConnectionPool(1)
        assert pool.take(GREEDY)
        first, second = await waiting(pool, OTHER), await waiting(pool, OTHER)
        pool.give_back(GREEDY)
        assert not pool.take(OTHER)
        await first
        assert not second.done()
        pool.give_back(OTHER)
        await second

    async def test_holds_nothing_when_it_has_left(self) -> None:
        pool = ConnectionPool(1)
        assert pool.take(GREEDY)
        await cancel(await waiting(pool, OTHER))
        pool.give_back(GREEDY)
        assert pool.take(OTHER)

    async def test_gives_back_what_came_as_it_left(self) -> None:
        pool = ConnectionPool(1)
        assert pool.take(GREEDY)
        leaving = await waiting(pool, OTHER)
        pool.give_back(GREEDY)
        await cancel(leaving)
        assert pool.take(GREEDY)
