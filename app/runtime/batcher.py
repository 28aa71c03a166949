"""Group commit: at most one batch is in flight, and what arrives meanwhile goes into the next. The next batch runs while
results are delivered.

If a batch fails, it is halved until the bad item is alone, so only that item fails. If a store is away, the whole batch fails
at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from app.domain.errors import StoreUnavailable
from app.runtime.tasks import create_shared_task

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_BATCH = 1000


class Batcher(Generic[Item, Result]):
    """`run` gets a batch and returns one result per item, in order, or raises and has done nothing. `unwanted` gets the results
    that nothing awaits any more. Only one item of each `key` is in a batch; None is no key."""

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        max_batch: int = MAX_BATCH,
        unwanted: Callable[[Item, Result], None] = lambda _item, _result: None,
        key: Callable[[Item], Hashable | None] = lambda _item: None,
    ) -> None:
        self._run = run
        self._key = key
        self._unwanted = unwanted
        self._max_batch = max_batch
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._draining: asyncio.Task[None] | None = None

    def submit(self, item: Item) -> asyncio.Future[Result]:
        """Returns a future with the item's result. Cancelling the future does not withdraw the item."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._draining is None:
            self._draining = create_shared_task(self._drain())
        return future

    async def settled(self) -> None:
        """Returns when nothing waits or is in flight."""
        while self._draining is not None:
            await asyncio.wait([self._draining])

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await self._attempt(self._next_batch())
                if not self._waiting:
                    await asyncio.sleep(0)  # the last batch is delivered before this ends
        finally:
            self._draining = None

    def _next_batch(self) -> Sequence[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        left: list[tuple[Item, asyncio.Future[Result]]] = []
        keys: set[Hashable] = set()
        for place, waiting in enumerate(self._waiting):
            if len(batch) == self._max_batch:
                left += self._waiting[place:]
                break
            key = self._key(waiting[0])
            (left if key in keys else batch).append(waiting)
            if key is not None:
                keys.add(key)
        self._waiting = left
        return batch

    async def _attempt(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
        except StoreUnavailable as error:
            _fail(batch, error)
        except Exception as error:  # noqa: BLE001 every item gets the error that is its own
            if len(batch) == 1:
                _fail(batch, error)
                return
            middle = len(batch) // 2
            await self._attempt(batch[:middle])
            await self._attempt(batch[middle:])
        else:
            asyncio.get_running_loop().call_soon(self._deliver, batch, results)

    def _deliver(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]], results: Sequence[Result]) -> None:
        for (item, future), result in zip(batch, results, strict=True):
            if future.done():
                self._unwanted(item, result)
            else:
                future.set_result(result)


def _fail(batch: Sequence[tuple[object, asyncio.Future[Result]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
