"""Rows 3 and 4 of `benchmarks.cache`: how often a provider is asked, by three processes with a common database and two Redis.

Each process opens all services of a server, without HTTP, over the simulator. Row 3: prompts are drawn by Zipf's law, a few at
a time. Row 4: all processes ask the same new thing at once. The calls that the simulator has answered are counted.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

from app.access.principal import Principal, Scope
from app.costs.estimate import Estimator
from app.costs.prices import PriceBook
from app.db.migrate import migrate
from app.embedded.stores import PrivateStores
from app.gateway.completions import CachePolicy
from app.runtime.clock import SystemClock
from app.services import Services, build_services
from app.settings import CacheSettings, LocalCacheSettings, ProviderTimeouts, RedisSettings
from tests.app.access.principals import principal
from tests.services import Stores, asked
from tests.simulators import RunningSimulator, start_simulator

PROCESSES = 3
PROMPTS, LOOK_UPS, CALLERS = 20_000, 200_000, 8
AT_ONCE = 1_000
REDIS_PATIENCE = timedelta(seconds=2)
"""More than usual: with processes, stores and simulator on one machine it is not Redis that is late."""
CACHE_BYTES = 256 * 1024 * 1024
MAX_SECONDS = 900
PATIENT = ProviderTimeouts(
    connect=timedelta(seconds=30), first_token=timedelta(seconds=60), idle=timedelta(seconds=60), total=timedelta(seconds=120)
)


@dataclass(frozen=True, slots=True)
class Work:
    """What a process asks for: numbers of prompts, by so many callers."""

    prompts: Sequence[int]
    callers: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where the processes meet; can be handed to another process."""

    stores: Stores
    cache_url: str
    simulator: RunningSimulator


@dataclass(frozen=True, slots=True)
class Zipf:
    hit_rate: float
    max_hit_rate: float
    calls_a_prompt: float


async def ask_all(services: Services, caller: Principal, work: Work) -> int:
    """Returns how many answers came from the cache."""
    left, hits = iter(work.prompts), 0

    async def ask() -> None:
        nonlocal hits
        for prompt in left:
            request = replace(asked(f"Prompt number {prompt}"), cache=CachePolicy())
            answer = await services.gateway.complete(request, caller)
            hits += answer.cache is not None

    await asyncio.gather(*(ask() for _ in range(work.callers)))
    return hits


async def serve(place: Place, orders: Connection) -> None:
    stores = place.stores
    cache = CacheSettings(local=LocalCacheSettings(url=stores.secret("cache", place.cache_url), ttl=timedelta(hours=1)))
    redis = RedisSettings(url=stores.secret("redis", stores.valkey_url), socket_timeout=REDIS_PATIENCE)
    settings = stores.settings(place.simulator, timeouts=PATIENT).model_copy(update={"cache": cache, "redis": redis})
    async with build_services(settings, SystemClock(), Estimator(), PriceBook(settings)) as services:
        while not services.cache.is_ready:  # noqa: ASYNC110 (it is read from the database)
            await asyncio.sleep(0.05)
        orders.send(0)
        while (work := await asyncio.to_thread(orders.recv)) is not None:
            orders.send(await ask_all(services, principal(Scope.COMPLETIONS), work))


def process(place: Place, orders: Connection) -> None:
    asyncio.run(serve(place, orders))


class Fleet:
    """The processes, as seen from the benchmark."""

    def __init__(self, simulator: RunningSimulator, orders: Sequence[Connection]) -> None:
        self._simulator = simulator
        self._orders = orders

    def ask(self, works: Sequence[Work]) -> tuple[int, int]:
        """Returns the answers from the cache and the calls that the provider has answered for them."""
        before = self._answered()
        for orders, work in zip(self._orders, works, strict=True):
            orders.send(work)
        hits = sum(received(orders) for orders in self._orders)
        return hits, self._answered() - before

    def _answered(self) -> int:
        return sum(totals.attempts for models in self._simulator.usage().values() for totals in models.values())


def received(orders: Connection) -> int:
    if not orders.poll(MAX_SECONDS):
        raise SystemExit("a process does not answer")
    answer: int = orders.recv()
    return answer


@contextmanager
def fleet() -> Iterator[Fleet]:
    with tempfile.TemporaryDirectory(prefix="greenlang-bench-") as name, start_simulator() as simulator:
        folder = Path(name)
        private = PrivateStores.launch(folder / "data", cache_bytes=CACHE_BYTES)
        try:
            private.wait()
            asyncio.run(migrate(private.owner.reveal()))
            stores = Stores(private.owner.reveal(), private.redis.reveal(), folder)
            place = Place(stores, private.cache.reveal(), simulator)
            with running_processes(place) as orders:
                yield Fleet(simulator, orders)
        finally:
            private.stop()


@contextmanager
def running_processes(place: Place) -> Iterator[Sequence[Connection]]:
    pipes = [multiprocessing.Pipe() for _ in range(PROCESSES)]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=process, args=(place, theirs)) for _, theirs in pipes]
    for each in processes:
        each.start()
    ours = [mine for mine, _ in pipes]
    try:
        for orders in ours:
            received(orders)
        yield ours
        for orders in ours:
            orders.send(None)
        for each in processes:
            each.join(60)
    finally:
        for each in processes:
            each.kill()
            each.join()


def drawn(look_ups: int) -> list[list[int]]:
    """Prompts by Zipf's law with exponent 1, one list for each process."""
    weights = list(itertools.accumulate(1 / rank for rank in range(1, PROMPTS + 1)))
    draw = random.Random(17)
    return [draw.choices(range(PROMPTS), cum_weights=weights, k=look_ups // PROCESSES) for _ in range(PROCESSES)]


def measure_zipf(processes: Fleet, look_ups: int = LOOK_UPS) -> Zipf:
    prompts = drawn(look_ups)
    total, distinct = sum(map(len, prompts)), len(set(itertools.chain(*prompts)))
    hits, calls = processes.ask([Work(each, CALLERS) for each in prompts])
    print(f"    Zipf: {total} look-ups of {distinct} distinct prompts: {hits} from the cache, {calls} origin calls")
    return Zipf(hits / total, 1 - distinct / total, calls / distinct)


def measure_at_once(processes: Fleet) -> int:
    """Returns the origin calls."""
    shares = [AT_ONCE // PROCESSES + (place < AT_ONCE % PROCESSES) for place in range(PROCESSES)]
    hits, calls = processes.ask([Work([PROMPTS + 1] * share, share) for share in shares])
    print(f"    {AT_ONCE} at once over {PROCESSES} processes: {hits} from the cache, {calls} origin calls")
    return calls


if __name__ == "__main__":
    with fleet() as all_processes:
        print(measure_at_once(all_processes))
        print(measure_zipf(all_processes, 6000))
