from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import cast
from uuid import UUID, uuid4

import pytest

from app.access.principal import Principal, Scope
from app.domain.errors import StoreUnavailable
from app.domain.problems import CursorExpired, InvalidInput, NotFound
from app.events.heartbeat import HEARTBEAT_SECONDS
from app.events.stream_log import LogPage, StreamLog
from app.gateway.completions import Completion, CompletionStatus
from app.gateway.leases import Leases
from app.gateway.stored_completions import CompletionReader, seal_context
from app.gateway.streams.events import (
    UNSETTLED,
    CompletionCancelled,
    CompletionDelta,
    CompletionEvent,
    CompletionFailed,
    CompletionFinished,
    CompletionHeartbeat,
    CompletionStarted,
)
from app.gateway.streams.log_entries import Entry, EntryKind, encode_entry
from app.gateway.streams.remote_watch import REDIS_WAIT_SECONDS, RemoteWatch
from tests.app.access.principals import principal
from tests.app.gateway.streams.local_seals import LocalSeals
from tests.clocks import ManualClock, settle

pytestmark = pytest.mark.anyio

ACME = principal(Scope.COMPLETIONS)


@dataclass
class Elsewhere:
    """What another process, the log and the ledger know of one call; a watcher here can only ask."""

    clock: ManualClock = field(default_factory=ManualClock)
    key: UUID = field(default_factory=uuid4)
    log: list[Entry] = field(default_factory=list)
    dropped: int = 0
    has_log: bool = True
    is_away: bool = False
    owned: bool = True
    known: Completion | None = None
    looked_up: int = 0
    reclaimed: int = 0

    def __post_init__(self) -> None:
        self.known = Completion(self.key, CompletionStatus.RUNNING, "acme", self.clock.now(), first_token_ms=1.0)
        self.seals = LocalSeals()
        self.watching = RemoteWatch(
            self.clock, cast("StreamLog", self), self.seals, cast("Leases", self), cast("CompletionReader", self)
        )

    # ------------------------------------------------------------------ as the log, the leases and the ledger
    async def read(self, batch: Sequence[tuple[UUID, int]]) -> Sequence[LogPage]:
        self._answer()
        return [self._page(after) for _, after in batch]

    async def newest(self, _: UUID) -> tuple[int, bytes] | None:
        self._answer()
        return self._sealed(self.log[-1]) if self.log and self.has_log else None

    async def is_owned(self, _: UUID) -> bool:
        self._answer()
        return self.owned

    async def reclaim_orphan(self, _: UUID) -> None:
        if not self.owned and self.known is not None and self.known.status is CompletionStatus.RUNNING:
            self.reclaimed += 1
            self.known = replace(self.known, status=CompletionStatus.FAILED, finished_at=self.clock.now())

    async def find(self, _: UUID, asking: Principal) -> Completion | None:
        self.looked_up += 1
        return self.known if asking.tenant == "acme" else None

    # ------------------------------------------------------------------ what happens there
    def write(self, *texts: str) -> None:
        if not self.log:
            self.log.append(Entry(1, self.clock.now(), EntryKind.STARTED))
        self.log += [Entry(len(self.log) + 1 + place, self.clock.now(), EntryKind.TEXT, text) for place, text in enumerate(texts)]

    def write_end(self) -> None:
        """With it the owner gives up its lease."""
        self.log.append(Entry(len(self.log) + 1, self.clock.now(), EntryKind.ENDED))
        self.owned = False

    def ends(self, status: CompletionStatus) -> None:
        assert self.known is not None
        text = "".join(entry.text or "" for entry in self.log)
        self.known = replace(self.known, status=status, text=text, finished_at=self.clock.now())

    # ------------------------------------------------------------------ watching it
    def watched(self, after: int = 0, asking: Principal = ACME) -> asyncio.Task[list[CompletionEvent]]:
        async def watch() -> list[CompletionEvent]:
            return [event async for event in self.watching.events(self.key, after, asking)]

        return asyncio.create_task(watch())

    async def seen(self, watch: asyncio.Task[list[CompletionEvent]], seconds: float = 60.0) -> list[CompletionEvent]:
        """What it has seen when it ends, which it must within so many seconds of its own time."""
        passed = 0.0
        while not watch.done() and passed < seconds:
            await self.clock.advance(0.05)
            passed += 0.05
        assert watch.done()
        return await watch

    def _answer(self) -> None:
        if self.is_away:
            raise StoreUnavailable("Redis")

    def _page(self, after: int) -> LogPage:
        kept = [entry for entry in self.log if entry.number > max(after, self.dropped)] if self.has_log else []
        if kept and kept[0].number != after + 1:
            return LogPage((), lost=True)
        return LogPage(tuple(self._sealed(entry) for entry in kept))

    def _sealed(self, entry: Entry) -> tuple[int, bytes]:
        return entry.number, self.seals.seal(encode_entry(entry), seal_context("acme", self.key))


def kinds(events: Sequence[CompletionEvent]) -> list[type[object]]:
    return [type(event) for event in events]


class TestRunningElsewhere:
    async def test_shows_each_entry_once_and_ends_with_what_the_ledger_says(self) -> None:
        there = Elsewhere()
        there.write("a")
        watch = there.watched()
        await settle()
        there.write("b", "c")
        await there.clock.advance(0.5)
        there.ends(CompletionStatus.FINISHED)
        there.write_end()
        events = await there.seen(watch)
        assert kinds(events) == [CompletionStarted, *[CompletionDelta] * 3, CompletionFinished]
        assert [event.number for event in events] == [1, 2, 3, 4, 5]
        assert isinstance(events[-1], CompletionFinished)
        assert events[-1].completion == there.known

    async def test_asks_the_ledger_once_at_first_and_once_at_the_end(self) -> None:
        there = Elsewhere()
        there.write("a")
        there.ends(CompletionStatus.CANCELLED)
        there.write_end()
        events = await there.seen(there.watched())
        assert kinds(events)[-1] is CompletionCancelled
        assert there.looked_up == 2

    async def test_goes_on_behind_a_cursor(self) -> None:
        there = Elsewhere()
        there.write("a", "b")
        there.ends(CompletionStatus.FINISHED)
        there.write_end()
        assert [event.number for event in await there.seen(there.watched(after=2))] == [3, 4]
        assert await there.seen(there.watched(after=4)) == []

    async def test_says_that_a_quiet_stream_lives(self) -> None:
        there = Elsewhere()
        there.write("a")
        watch = there.watched()
        await there.clock.advance(HEARTBEAT_SECONDS + 1)
        there.ends(CompletionStatus.FINISHED)
        there.write_end()
        events = await there.seen(watch)
        assert kinds(events) == [CompletionStarted, CompletionDelta, CompletionHeartbeat, CompletionFinished]
        assert [event.number for event in events] == [1, 2, 2, 3]

    async def test_forgets_a_watcher_that_leaves(self) -> None:
        there = Elsewhere()
        there.write("a")
        watch = there.watched()
        await settle()
        assert there.watching.watchers == 1
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        assert there.watching.watchers == 0

    async def test_shows_nothing_to_a_other_caller(self) -> None:
        there = Elsewhere()
        there.write("a")
        (event,) = await there.seen(there.watched(asking=principal(Scope.COMPLETIONS, tenant="globex", key=2)))
        assert isinstance(event, CompletionFailed)
        assert isinstance(event.problem, NotFound)
        assert event.partial is None


class TestKeyThatIsGone:
    async def test_a_running_stream_cannot_be_followed(self) -> None:
        there = Elsewhere()
        there.write("a")
        there.seals.lose_key()
        (event,) = await there.seen(there.watched())
        assert isinstance(event, CompletionFailed)
        assert isinstance(event.problem, CursorExpired)

    async def test_an_ended_one_is_reported_from_its_result(self) -> None:
        there = Elsewhere()
        there.write("a", "b")
        there.ends(CompletionStatus.FINISHED)
        there.write_end()
        there.seals.lose_key()
        events = await there.seen(there.watched())
        assert kinds(events) == [CompletionStarted, CompletionDelta, CompletionFinished]
        assert isinstance(events[1], CompletionDelta)
        assert events[1].text == "ab"

    async def test_behind_a_cursor_the_events_are_no_longer_kept(self) -> None:
        there = Elsewhere()
        there.write("a", "b")
        there.ends(CompletionStatus.FINISHED)
        there.write_end()
        there.seals.lose_key()
        for after in (2, 4):
            (event,) = await there.seen(there.watched(after=after))
            assert isinstance(event, CompletionFailed)
            assert isinstance(event.problem, CursorExpired)


class TestOwnerThatDied:
    async def test_ends_as_failed_behind_the_last_entry(self) -> None:
        there = Elsewhere(owned=False)
        there.write("a")
        events = await there.seen(there.watched(), seconds=10)
        assert kinds(events) == [CompletionStarted, CompletionDelta, CompletionFailed]
        assert [event.number for event in events] == [1, 2, 3]
        assert there.reclaimed == 1

    async def test_leaves_the_text_that_was_shown(self) -> None:
        there = Elsewhere(owned=False)
        there.write("a", "b", "c")
        for after in (0, 3):
            failed = (await there.seen(there.watched(after), seconds=10))[-1]
            assert isinstance(failed, CompletionFailed)
            assert failed.partial is not None
            assert failed.partial.text == "abc"

    async def test_after_it_had_settled_a_whole_answer_does_not_hide_what_is_missing(self) -> None:
        there = Elsewhere(owned=False)
        there.write("a")
        there.ends(CompletionStatus.FINISHED)
        events = await there.seen(there.watched(), seconds=10)
        failed = events[-1]
        assert isinstance(failed, CompletionFailed)
        assert isinstance(failed.problem, CursorExpired)
        assert failed.partial == there.known

    async def test_that_could_not_settle_is_never_shown_as_finished(self) -> None:
        there = Elsewhere()
        there.write("a")
        there.write_end()
        failed = (await there.seen(there.watched()))[-1]
        assert isinstance(failed, CompletionFailed)
        assert failed.problem == UNSETTLED


class TestLogThatIsGone:
    async def test_is_reported_from_the_result_to_who_asks_from_the_start(self) -> None:
        there = Elsewhere(has_log=False, owned=False)
        there.write("a", "b")
        there.ends(CompletionStatus.FINISHED)
        events = await there.seen(there.watched())
        assert kinds(events) == [CompletionStarted, CompletionDelta, CompletionFinished]
        assert isinstance(events[1], CompletionDelta)
        assert events[1].text == "ab"

    async def test_has_expired_for_who_asks_behind_a_cursor(self) -> None:
        there = Elsewhere(has_log=False, owned=False)
        there.write("a")
        there.ends(CompletionStatus.FINISHED)
        (failed,) = await there.seen(there.watched(after=2))
        assert isinstance(failed, CompletionFailed)
        assert isinstance(failed.problem, CursorExpired)

    async def test_has_expired_where_its_first_entries_were_dropped(self) -> None:
        there = Elsewhere(dropped=2)
        there.write("a", "b", "c")
        (failed,) = await there.seen(there.watched())
        assert isinstance(failed, CompletionFailed)
        assert isinstance(failed.problem, CursorExpired)

    async def test_does_not_end_a_call_while_no_one_can_say_whether_it_lives(self) -> None:
        there = Elsewhere(owned=False)
        there.write("a")
        there.is_away = True
        watch = there.watched()
        await there.clock.advance(3 * REDIS_WAIT_SECONDS)
        assert not watch.done()
        assert there.reclaimed == 0
        there.is_away, there.owned = False, True
        there.ends(CompletionStatus.FINISHED)
        there.write_end()
        events = [event for event in await there.seen(watch) if not isinstance(event, CompletionHeartbeat)]
        assert kinds(events) == [CompletionStarted, CompletionDelta, CompletionFinished]

    async def test_is_waited_for_a_while_after_the_end_while_redis_is_away(self) -> None:
        there = Elsewhere(is_away=True)
        there.write("a")
        there.ends(CompletionStatus.FINISHED)
        watch = there.watched()
        await there.clock.advance(REDIS_WAIT_SECONDS - 1)
        assert not watch.done()
        events = await there.seen(watch, seconds=5)
        assert kinds(events) == [CompletionStarted, CompletionDelta, CompletionFinished]


class TestCursorBeyondTheEnd:
    @pytest.mark.parametrize("has_end", [True, False])
    async def test_is_refused(self, *, has_end: bool) -> None:
        there = Elsewhere(owned=False)
        there.write("a")
        there.ends(CompletionStatus.FAILED)
        if has_end:
            there.write_end()
        (failed,) = await there.seen(there.watched(after=50))
        assert isinstance(failed, CompletionFailed)
        assert isinstance(failed.problem, InvalidInput)
        assert there.clock.now() - failed.at < timedelta(seconds=1)
