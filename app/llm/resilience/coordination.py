"""What the guards of all processes exchange through Redis, several times a second."""

from __future__ import annotations

import asyncio
import logging

from app.domain.errors import StoreUnavailable
from app.llm.resilience.breaker_shared import BreakerBoard
from app.llm.resilience.limiter import Rates
from app.llm.resilience.limiter_shared import Peers, SharedBuckets
from app.redis.clients import RedisClient
from app.runtime.clock import Clock

EVERY_SECONDS = 0.2
AFTER_A_SURPRISE_SECONDS = 5.0
NAMESPACE = "greenlang"
_log = logging.getLogger(__name__)


class Coordination:
    """`expected` is the number of processes that share the limits, until Redis has reported it."""

    def __init__(self, redis: RedisClient, clock: Clock, *, expected: int, namespace: str = NAMESPACE) -> None:
        self.board = BreakerBoard(redis, namespace=namespace)
        self._redis = redis
        self._clock = clock
        self._namespace = namespace
        self.peers = Peers(redis, clock, expected=expected, namespace=namespace)
        self._buckets: list[SharedBuckets] = []

    def buckets(self, provider: str, rates: Rates) -> SharedBuckets:
        made = SharedBuckets(provider, rates, self._redis, self.peers, self._clock, namespace=self._namespace)
        self._buckets.append(made)
        return made

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            pause = EVERY_SECONDS
            try:
                await self.sync()
            except Exception:  # noqa: BLE001 whatever it was, breakers and limits are not to stay apart for ever
                _log.exception("limits and breakers are not shared")
                pause = AFTER_A_SURPRISE_SECONDS
            await self._clock.sleep(pause)

    async def sync(self) -> None:
        """Exchanges once. Without Redis the guards continue alone."""
        try:
            await self.peers.beat()
        except StoreUnavailable:
            pass
        async with asyncio.TaskGroup() as group:
            group.create_task(self.board.sync())
            for buckets in self._buckets:
                group.create_task(buckets.sync())

    async def leave(self) -> None:
        """Returns the unused reservations to the shared buckets. The process is not counted any more."""
        for buckets in self._buckets:
            await buckets.give_all_back()
        try:
            await self.peers.leave()
        except StoreUnavailable:
            pass
