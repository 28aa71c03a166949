"""What is invalidated stays gone, in every process and in every tier."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from sqlalchemy import text

from app.cache.invalidations import MAX_KEPT, Invalidations, Selector, SelectorKind, delete_old
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.errors import StoreUnavailable
from app.events.relay import Relay
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings
from tests.app.cache.cached import a_key, an_entry
from tests.app.cache.conftest import until

pytestmark = pytest.mark.anyio
EVERYTHING = Selector(SelectorKind.EVERYTHING)


class Process:
    def __init__(self, sessions: Sessions) -> None:
        self.relay = Relay(sessions, SystemClock())
        self.lost = 0
        self.invalidations = Invalidations(sessions, self.relay, SystemClock(), on_lost=self._count_lost)

    def _count_lost(self) -> None:
        self.lost += 1


@pytest.fixture
async def nowhere() -> AsyncIterator[Sessions]:
    engines = build_engines("postgresql://someone@127.0.0.1:1/nothing", [], DatabaseSettings())
    yield Sessions(engines)
    await engines.close()


@asynccontextmanager
async def running(sessions: Sessions) -> AsyncIterator[Process]:
    process = Process(sessions)
    tasks = [asyncio.create_task(each.run()) for each in (process.relay, process.invalidations)]
    try:
        await until(lambda: process.invalidations.is_known)
        yield process
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(
    ("selector", "name", "tags", "selected"),
    [
        (Selector(SelectorKind.NAME, ("completion/a/1", "completion/a/2")), "completion/a/2", (), True),
        (Selector(SelectorKind.NAME, ("completion/a/1",)), "completion/a/11", (), False),
        (Selector(SelectorKind.PATTERN, ("completion/a/*",)), "completion/a/1", (), True),
        (Selector(SelectorKind.PATTERN, ("completion/a/?",)), "completion/a/12", (), False),
        (Selector(SelectorKind.PATTERN, ("*",)), "embedding/b/1", (), True),
        (Selector(SelectorKind.PATTERN, ("*/openai/gpt-5.[1]/*",)), "completion/openai/gpt-5.1/00", (), False),
        (Selector(SelectorKind.PATTERN, ("*/a[b]c/*",)), "completion/a[b]c/00", (), True),
        (Selector(SelectorKind.PATTERN, ("a",)), "completion/a/1", (), False),
        (Selector(SelectorKind.TAG, ("x", "y")), "completion/a/1", ("y",), True),
        (Selector(SelectorKind.TAG, ("x",)), "completion/x/1", ("xx",), False),
        (EVERYTHING, "completion/a/1", (), True),
    ],
)
async def test_a_selector_selects(
    sessions: Sessions, selector: Selector, name: str, tags: tuple[str, ...], *, selected: bool
) -> None:
    assert selector.matcher()(name, tags) is selected
    async with running(sessions) as process:
        key, entry = a_key("acme", name), an_entry(tags=tags)
        await process.invalidations.add("acme", selector)
        assert process.invalidations.covers(key, entry) is selected
        assert not process.invalidations.covers(a_key("rival", name), entry)


async def test_a_pattern_of_many_stars_takes_no_time(sessions: Sessions) -> None:
    selector = Selector(SelectorKind.PATTERN, ("*a" * 100 + "b",))
    began = datetime.now(UTC)
    assert not selector.matcher()("a" * 300, ())
    assert datetime.now(UTC) - began < timedelta(seconds=5)


async def test_what_began_after_it_may_be_given(sessions: Sessions) -> None:
    async with running(sessions) as process:
        await process.invalidations.add("acme", EVERYTHING)
        assert not process.invalidations.covers(a_key("acme"), an_entry(began=timedelta(seconds=1)))
        assert process.invalidations.covers(a_key("acme"), an_entry(began=timedelta(seconds=-1)))


async def test_every_process_gets_it(sessions: Sessions) -> None:
    key, entry = a_key(), an_entry()
    async with running(sessions) as first, running(sessions) as second:
        await first.invalidations.add(key.tenant, Selector(SelectorKind.NAME, (key.name,)))
        assert first.invalidations.covers(key, entry)
        await until(lambda: second.invalidations.covers(key, entry))
        assert not second.invalidations.covers(a_key(key.tenant), entry)


async def test_a_process_that_starts_later_knows_it_before_it_gives_anything(sessions: Sessions) -> None:
    key, entry = a_key(), an_entry(tags=("prices",))
    async with running(sessions) as first:
        await first.invalidations.add(key.tenant, Selector(SelectorKind.TAG, ("prices",)))
    late = Process(sessions)
    assert not late.invalidations.is_known
    async with running(sessions) as process:
        assert process.invalidations.covers(key, entry)


async def test_more_than_are_kept_become_one_of_everything(sessions: Sessions) -> None:
    async with running(sessions) as first, running(sessions) as second:
        names = [f"completion/default/{number:032x}" for number in range(MAX_KEPT + 100)]
        entry = an_entry()
        for start in range(0, len(names), 100):
            await first.invalidations.add("acme", Selector(SelectorKind.NAME, tuple(names[start : start + 100])))
        await until(lambda: second.invalidations.covers(a_key("acme", names[-1]), entry))
        for process in (first, second):
            assert all(process.invalidations.covers(a_key("acme", name), entry) for name in names)
    async with running(sessions) as third:
        assert all(third.invalidations.covers(a_key("acme", name), entry) for name in names)
        assert not third.invalidations.covers(a_key("acme"), an_entry(began=timedelta(minutes=1)))


async def test_without_postgres_nothing_changes(nowhere: Sessions) -> None:
    unreachable = Process(nowhere)
    with pytest.raises(StoreUnavailable):
        await unreachable.invalidations.add("acme", EVERYTHING)
    assert not unreachable.invalidations.covers(a_key("acme"), an_entry())


async def test_those_older_than_any_entry_are_deleted(sessions: Sessions) -> None:
    process = Process(sessions)
    await process.invalidations.add("acme", EVERYTHING)
    await process.invalidations.add("rival", EVERYTHING)
    async with sessions.statements() as session:
        await session.exec_driver_sql("update cache_invalidations set at = at - interval '40 days' where tenant = 'acme'")
    await delete_old(sessions)
    async with sessions.read() as session:
        rows = await session.execute(text("select tenant from cache_invalidations"))
        assert rows.scalars().all() == ["rival"]


async def test_a_process_that_lost_its_place_drops_what_it_kept_and_reads_all_again(sessions: Sessions, owner_url: str) -> None:
    key, entry = a_key(), an_entry()
    async with running(sessions) as process, running(sessions) as other:
        await other.invalidations.add(key.tenant, Selector(SelectorKind.NAME, (key.name,)))
        await until(lambda: process.invalidations.covers(key, entry))
        assert process.lost == 0
        owner = await asyncpg.connect(owner_url)
        await owner.execute("update event_log set head = 0")
        await owner.close()
        process.relay.wake()
        await until(lambda: process.lost == 1)
        await until(lambda: process.invalidations.is_known)
        assert process.invalidations.covers(key, entry)
