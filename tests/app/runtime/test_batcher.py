from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from app.domain.errors import StoreUnavailable
from app.runtime.batcher import Batcher

pytestmark = pytest.mark.anyio


class Store:
    """Doubles numbers; refuses a batch that holds 13, as a database refuses a bad row."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.away = False

    async def run(self, batch: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(batch))
        await asyncio.sleep(0)
        if self.away:
            raise StoreUnavailable("PostgreSQL")
        if 13 in batch:
            raise ValueError("13")
        return [number * 2 for number in batch]


class TestGroupCommit:
    async def test_what_arrives_meanwhile_goes_with_the_next_batch(self) -> None:
        store = Store()
        batcher = Batcher(store.run)
        first = batcher.submit(1)
        await asyncio.sleep(0)
        rest = [batcher.submit(number) for number in (2, 3, 4)]
        assert await asyncio.gather(first, *rest) == [2, 4, 6, 8]
        assert store.batches == [[1], [2, 3, 4]]

    async def test_the_next_batch_is_on_its_way_before_the_last_one_is_reported(self) -> None:
        store, reported = Store(), list[int]()
        batcher = Batcher(store.run, max_batch=1)
        for number in (1, 2):
            batcher.submit(number).add_done_callback(lambda _: reported.append(len(store.batches)))
        await batcher.settled()
        assert reported == [2, 2]

    async def test_anyone_who_asks_again_once_it_is_reported_goes_on(self) -> None:
        batcher, later = Batcher(Store().run), list[asyncio.Future[int]]()
        batcher.submit(1).add_done_callback(lambda _: later.append(batcher.submit(2)))
        await batcher.settled()
        assert [await one for one in later] == [4]

    async def test_of_one_key_a_batch_has_only_the_first(self) -> None:
        store = Store()
        batcher = Batcher(store.run, max_batch=3, key=lambda number: number % 10 or None)
        assert await asyncio.gather(*map(batcher.submit, [1, 11, 21, 2, 10, 20, 12])) == [2, 22, 42, 4, 20, 40, 24]
        assert store.batches == [[1, 2, 10], [11, 20, 12], [21]]

    async def test_a_batch_has_a_largest_size(self) -> None:
        store = Store()
        batcher = Batcher(store.run, max_batch=2)
        assert await asyncio.gather(*map(batcher.submit, range(5))) == [0, 2, 4, 6, 8]
        assert store.batches == [[0, 1], [2, 3], [4]]

    async def test_one_bad_item_fails_alone(self) -> None:
        batcher = Batcher(Store().run)
        found = await asyncio.gather(*(batcher.submit(number) for number in range(10, 18)), return_exceptions=True)
        assert [one for one in found if isinstance(one, int)] == [20, 22, 24, 28, 30, 32, 34]
        assert isinstance(found[3], ValueError)

    async def test_a_store_that_is_away_fails_all_at_once_and_serves_again(self) -> None:
        store = Store()
        batcher = Batcher(store.run)
        store.away = True
        found = await asyncio.gather(*(batcher.submit(number) for number in range(8)), return_exceptions=True)
        assert all(isinstance(one, StoreUnavailable) for one in found)
        assert len(store.batches) == 1
        store.away = False
        assert await batcher.submit(4) == 8

    async def test_who_no_longer_waits_holds_up_no_one(self) -> None:
        store, unwanted = Store(), list[tuple[int, int]]()
        batcher = Batcher(store.run, unwanted=lambda item, result: unwanted.append((item, result)))
        gone, stays = batcher.submit(1), batcher.submit(2)
        gone.cancel()
        assert await stays == 4
        await batcher.settled()
        assert store.batches == [[1, 2]]
        assert unwanted == [(1, 2)]
