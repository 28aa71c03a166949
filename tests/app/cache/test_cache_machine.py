"""Whatever two processes do to one cache: no entry is given that is older than an invalidation that its process knows, and none
of another tenant."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit
from uuid import uuid4

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from app.cache.entries import Entry, EntryCodec
from app.cache.figures import CacheFigures
from app.cache.invalidations import Invalidations, Selector, SelectorKind
from app.cache.keys import EntryKey
from app.cache.memory import MemoryTier
from app.cache.postgres import PostgresTier
from app.cache.redis import RedisTier
from app.cache.tiered import PlacedTier, TieredCache
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.errors import StoreUnavailable
from app.domain.usage import CacheTier
from app.events.relay import Relay
from app.redis.clients import connect_redis
from app.runtime.tasks import end_tasks
from app.secrets.sealing import Sealer
from app.settings import DatabaseSettings, RedisSettings
from tests.gates import Gate

T = TypeVar("T")
MEMORY_TTL = timedelta(seconds=30)
TTL = timedelta(seconds=600)
NAMES = ("completion/default/00", "completion/default/01", "embedding/model/00")
TAGS = ("news", "prices")
TIMES_FASTER = 20
REDIS = (CacheTier.LOCAL_REDIS, CacheTier.SHARED_REDIS)

processes = st.integers(0, 1)
tenants = st.integers(0, 1)
names = st.sampled_from(NAMES)
tags = st.lists(st.sampled_from(TAGS), unique=True).map(tuple)
picks = st.integers(0, 999)
"""A pick among the calls that run."""


@dataclass(frozen=True)
class Wanted:
    """A selector, and what it selects by its documentation, written a second time."""

    selector: Selector
    selects: Callable[[str, tuple[str, ...]], bool]


selectors = st.one_of(
    st.builds(lambda name: Wanted(Selector(SelectorKind.NAME, (name,)), lambda each, _: each == name), names),
    st.sampled_from(["completion/", "embedding/", ""]).map(
        lambda start: Wanted(Selector(SelectorKind.PATTERN, (f"{start}*",)), lambda each, _: each.startswith(start))
    ),
    st.builds(lambda tag: Wanted(Selector(SelectorKind.TAG, (tag,)), lambda _, own: tag in own), st.sampled_from(TAGS)),
    st.just(Wanted(Selector(SelectorKind.EVERYTHING), lambda _name, _tags: True)),
)


class FastClock:
    """Sleeps are short, and a test can let time pass."""

    def __init__(self) -> None:
        self.passed = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.passed

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time() + self.passed.total_seconds()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / TIMES_FASTER)


@dataclass(frozen=True)
class Call:
    """A call at a provider. `order` is its place among all calls and invalidations, by when each began."""

    key: EntryKey
    tags: tuple[str, ...]
    began_at: datetime
    order: int

    @property
    def body(self) -> bytes:
        return f"{self.key.tenant} {self.key.name} {self.order}".encode()


@dataclass
class Done:
    """An invalidation that was acknowledged."""

    tenant: str
    wanted: Wanted
    order: int

    def covers(self, call: Call) -> bool:
        is_older = call.order < self.order
        return is_older and call.key.tenant == self.tenant and self.wanted.selects(call.key.name, call.tags)


@dataclass
class Stores:
    database_url: str
    valkey_url: str


@dataclass
class Process:
    """A process of a server, as far as the cache is concerned. `known` are the invalidations that it must obey."""

    database: Gate
    cache: TieredCache
    invalidations: Invalidations
    close: Callable[[], Coroutine[Any, Any, None]]
    known: list[Done] = field(default_factory=list)


class CacheMachine(RuleBasedStateMachine):
    hits: Counter[CacheTier]

    def __init__(self, stores: Stores) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stores = stores
        self.engines = build_engines(stores.database_url, [], DatabaseSettings())
        self.clock = FastClock()
        self.tenants = [f"tenant-{uuid4()}" for _ in range(2)]
        valkey = urlsplit(stores.valkey_url).port
        assert valkey is not None
        self.gates = {tier: Gate(valkey) for tier in REDIS}
        self.processes: list[Process] = []
        self.running: list[Call] = []
        self.made: dict[bytes, Call] = {}
        self.done: list[Done] = []
        self.orders = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def start(self) -> None:
        self.run(self._start())

    async def _start(self) -> None:
        for gate in self.gates.values():
            await gate.open()
        for _ in range(2):
            self.processes.append(await self._process())

    async def _process(self) -> Process:
        """Returns once it gives something from the cache."""
        url = urlsplit(self.stores.database_url)
        assert url.port is not None
        gate = Gate(url.port)
        await gate.open()
        engines = build_engines(_through(gate, url), [], DatabaseSettings())
        sessions, codec = Sessions(engines), EntryCodec(Sealer([b"k" * 32]))
        clients = {tier: self._client(tier) for tier in REDIS}
        memory, relay = MemoryTier(100_000, self.clock), Relay(sessions, self.clock)
        invalidations = Invalidations(sessions, relay, self.clock, on_lost=memory.clear)
        tiers = [
            PlacedTier(memory, MEMORY_TTL),
            *(
                PlacedTier(RedisTier(tier, clients[tier], codec, self.clock, max_seconds=3600, is_alone=False), TTL)
                for tier in REDIS
            ),
            PlacedTier(PostgresTier(sessions, codec), TTL),
        ]
        figures = CacheFigures(self.clock, clients[CacheTier.SHARED_REDIS], CollectorRegistry())
        cache = TieredCache(tiers, invalidations, self.clock, figures)
        tasks = [asyncio.create_task(each.run()) for each in (relay, invalidations)]

        async def close() -> None:
            await cache.flush()
            await end_tasks(tasks)
            for client in clients.values():
                await client.close()
            await engines.close()
            await gate.close()

        await self._until(lambda: cache.is_ready)
        return Process(gate, cache, invalidations, close, list(self.done))

    def _client(self, tier: CacheTier) -> Any:
        url = _through(self.gates[tier], urlsplit(self.stores.valkey_url)._replace(path=f"/{1 + REDIS.index(tier)}"))
        return connect_redis(url, RedisSettings(socket_timeout=timedelta(seconds=2)), self.clock)

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():  # noqa: ASYNC110 (the condition is another party's state)
                await asyncio.sleep(0.005)

    @rule(tenant=tenants, name=names, labels=tags)
    def begin(self, tenant: int, name: str, labels: tuple[str, ...]) -> None:
        self.run(self._begin(EntryKey(self.tenants[tenant], name), labels))

    async def _begin(self, key: EntryKey, labels: tuple[str, ...]) -> Call:
        async with Sessions(self.engines).read() as session:
            now: datetime = (await session.execute(text("select clock_timestamp()"))).scalar_one()
        self.orders += 1
        call = Call(key, labels, now, self.orders)
        self.running.append(call)
        self.made[call.body] = call
        return call

    async def _fill(self, process: Process, call: Call) -> None:
        now = self.clock.now()
        await process.cache.put(call.key, Entry(call.body, call.began_at, now, now + TTL, call.tags))

    @precondition(lambda self: self.running)
    @rule(which=processes, pick=picks, wait=st.booleans())
    def end(self, which: int, pick: int, *, wait: bool) -> None:
        """A call ends that began at any time before. What it made is written to the slower tiers while other things happen."""

        async def fill() -> None:
            await self._fill(process, call)
            if wait:
                await process.cache.flush()

        process, call = self.processes[which], self.running.pop(pick % len(self.running))
        self.run(fill())

    @rule(which=processes, tenant=tenants, name=names, labels=tags, tier=st.sampled_from(CacheTier))
    def fill_and_hit(self, which: int, tenant: int, name: str, labels: tuple[str, ...], tier: CacheTier) -> None:
        """What was just made is given by the tier, as the faster ones have lost it or are away."""

        async def fill() -> None:
            await self._open_all()
            call = await self._begin(EntryKey(self.tenants[tenant], name), labels)
            self.running.remove(call)
            await self._fill(process, call)
            await process.cache.flush()
            if tier is not CacheTier.MEMORY:
                self.clock.passed += MEMORY_TTL + timedelta(seconds=1)
            for faster in REDIS[: [*REDIS, CacheTier.POSTGRES].index(tier)] if tier is not CacheTier.MEMORY else ():
                await self.gates[faster].close()
            was_ready, hits = process.cache.is_ready, self.hits[tier]
            assert not was_ready or (await self._get(process, call.key) is not None and self.hits[tier] == hits + 1)

        process = self.processes[which]
        self.run(fill())

    @rule(which=processes)
    def get(self, which: int) -> None:
        self.run(self._get_all(self.processes[which]))

    async def _get_all(self, process: Process) -> None:
        await asyncio.gather(*(self._get(process, EntryKey(tenant, name)) for tenant in self.tenants for name in NAMES))

    async def _get(self, process: Process, key: EntryKey) -> Call | None:
        known = list(process.known)
        hit = await process.cache.get(key)
        if hit is None:
            return None
        call = self.made[hit.entry.body]
        assert call.key == key, "an entry of another tenant or name"
        assert not any(done.covers(call) for done in known), "an entry that was invalidated"
        assert hit.entry.expires_at > self.clock.now() - timedelta(seconds=5), "an entry that has expired"
        self.hits[hit.tier] += 1
        return call

    @rule(which=processes, tenant=tenants, wanted=selectors, dry_run=st.sampled_from([False, False, True]))
    def invalidate(self, which: int, tenant: int, wanted: Wanted, *, dry_run: bool) -> None:
        async def invalidate_and_look() -> None:
            await self._invalidate(process, self.tenants[tenant], wanted, dry_run=dry_run)
            await self._get_all(process)

        process = self.processes[which]
        self.run(invalidate_and_look())

    async def _invalidate(self, process: Process, tenant: str, wanted: Wanted, *, dry_run: bool) -> None:
        self.orders += 1
        order = self.orders
        could_be = {
            call.key.name
            for call in self.made.values()
            if call.key.tenant == tenant and any(wanted.selects(call.key.name, own) for own in (call.tags, TAGS))
        }
        try:
            entries = await process.cache.invalidate(tenant, wanted.selector, dry_run=dry_run)
        except StoreUnavailable:
            assert not process.database.is_open
            return
        assert entries <= len(could_be)
        if not dry_run:
            done = Done(tenant, wanted, order)
            self.done.append(done)
            process.known.append(done)

    @precondition(lambda self: self.running)
    @rule(which=processes, other=processes, pick=picks, wanted=selectors)
    def end_while_invalidating(self, which: int, other: int, pick: int, wanted: Wanted) -> None:
        async def both() -> None:
            await asyncio.gather(
                self._invalidate(self.processes[which], call.key.tenant, wanted, dry_run=False),
                self._fill(self.processes[other], call),
                self._get(self.processes[other], call.key),
            )
            await self._get_all(self.processes[which])

        call = self.running.pop(pick % len(self.running))
        self.run(both())

    @rule(which=processes)
    def hear(self, which: int) -> None:
        """The events reach a process: now it obeys what the others have invalidated."""

        async def arrive() -> None:
            await self._until(lambda: all(_is_known(process, done) for done in unknown))
            process.known.extend(unknown)
            await self._get_all(process)

        process = self.processes[which]
        unknown = [done for done in self.done if done not in process.known]
        if process.database.is_open:
            self.run(arrive())

    @rule(which=processes)
    def flush(self, which: int) -> None:
        self.run(self.processes[which].cache.flush())

    @rule(seconds=st.sampled_from([1, 31, 31, 601]))
    def let_time_pass(self, seconds: int) -> None:
        self.clock.passed += timedelta(seconds=seconds)

    @rule(tier=st.sampled_from(REDIS))
    def lose_a_redis(self, tier: CacheTier) -> None:
        """What it keeps is still there when it is back."""
        self.run(self.gates[tier].close())

    @rule(which=processes)
    def lose_the_database(self, which: int) -> None:
        self.run(self.processes[which].database.close())

    @rule()
    def have_all_stores_back(self) -> None:
        self.run(self._open_all())

    async def _open_all(self) -> None:
        """Long enough ago that all stores are tried again."""
        for gate in (*self.gates.values(), *(process.database for process in self.processes)):
            await gate.open()
        self.clock.passed += timedelta(seconds=3)

    @rule(which=processes)
    def restart(self, which: int) -> None:
        async def change() -> None:
            await self.processes[which].close()
            self.processes[which] = await self._process()

        self.run(change())

    def teardown(self) -> None:
        for process in self.processes:
            self.run(process.close())
        for gate in self.gates.values():
            self.run(gate.close())
        self.run(self.engines.close())
        self.runner.close()


def _is_known(process: Process, done: Done) -> bool:
    kind, values = done.wanted.selector.kind, done.wanted.selector.values
    name = {SelectorKind.NAME: values[0], SelectorKind.PATTERN: values[0].replace("*", "x")}.get(kind, NAMES[0])
    past = datetime.min.replace(tzinfo=UTC)
    return process.invalidations.covers(EntryKey(done.tenant, name), Entry(b"", past, past, past, values))


def _through(gate: Gate, url: SplitResult) -> str:
    return url._replace(netloc=url.netloc.replace(f":{url.port}", f":{gate.port}")).geturl()


def test_no_order_of_events_gives_what_was_invalidated_or_is_anothers(database_url: str, valkey_url: str) -> None:
    hits_seen: Counter[CacheTier] = Counter()

    class OnTheseStores(CacheMachine):
        hits = hits_seen

        def __init__(self) -> None:
            super().__init__(Stores(database_url, valkey_url))

    run_state_machine_as_test(
        OnTheseStores,
        settings=settings(
            max_examples=15,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
            database=None,
        ),
    )
    assert set(hits_seen) == set(CacheTier), "a tier never gave anything, so nothing was shown about it"
