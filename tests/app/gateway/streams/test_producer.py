from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.costs.holds import Payer
from app.domain.errors import StoreUnavailable
from app.domain.ids import new_uuid
from app.gateway.completions import Completion, CompletionStatus
from app.gateway.streams.log_entries import Entry, EntryKind
from app.gateway.streams.producer import StreamProducer
from app.llm.messages import TextDelta, ToolCallDelta
from app.runtime.ticks import MIN_WAIT, Ticks
from tests.clocks import ManualClock, settle

pytestmark = pytest.mark.anyio


class Bench:
    """A run with a log that can be away."""

    def __init__(self, beside: Bench | None = None) -> None:
        self.clock: ManualClock = ManualClock() if beside is None else beside.clock
        self.ticks: Ticks = Ticks(self.clock) if beside is None else beside.ticks
        self.log: list[Entry] = []
        self.is_away = False
        self.slowness: asyncio.Event | None = None
        self.run = StreamProducer(
            Payer("acme", "key"), self.clock, lambda entries: asyncio.ensure_future(self._append(entries)), self.ticks
        )

    @property
    def completion(self) -> Completion:
        return Completion(new_uuid(self.clock.now()), CompletionStatus.FINISHED, "acme", self.clock.now())

    async def _append(self, entries: Sequence[Entry]) -> None:
        await (asyncio.sleep(0) if self.slowness is None else self.slowness.wait())
        if self.is_away:
            raise StoreUnavailable("Redis")
        self.log += entries

    async def followed(self, after: int = 0) -> list[Entry | None]:
        return [entry async for entry in self.run.follow(after)]


def words(entries: Sequence[Entry | None]) -> str:
    return "".join(entry.text or "" for entry in entries if entry is not None)


class TestRun:
    async def test_merges_what_comes_within_a_moment(self) -> None:
        bench = Bench()
        await bench.run.started()
        for word in ("a", "b", "c"):
            bench.run.delta(TextDelta(word))
            await settle()
        assert bench.run.length == 2
        await bench.clock.advance(2 * MIN_WAIT)
        assert [entry.text for entry in bench.log] == [None, "a", "bc"]

    async def test_waits_for_what_other_runs_of_the_process_write(self) -> None:
        bench = Bench()
        other = Bench(bench)
        for run in (bench.run, other.run):
            await run.started()
        bench.run.delta(TextDelta("a"))
        other.run.delta(TextDelta("b"))
        await settle()
        assert [bench.run.length, other.run.length] == [2, 1]
        await bench.clock.advance(2 * MIN_WAIT)
        assert other.run.length == 2

    async def test_passes_on_at_once_what_comes_after_a_silence(self) -> None:
        bench = Bench()
        await bench.run.started()
        for word in ("a", "b"):
            await bench.clock.advance(2 * MIN_WAIT)
            bench.run.delta(TextDelta(word))
            await settle()
            assert bench.clock.sleeping == 0
        assert [entry.text for entry in bench.log] == [None, "a", "b"]

    async def test_merges_what_comes_while_the_log_is_slow(self) -> None:
        bench = Bench()
        await bench.run.started()
        await bench.clock.advance(MIN_WAIT)
        bench.slowness = asyncio.Event()
        for word in ("a", "b", "c"):
            bench.run.delta(TextDelta(word))
            await settle()
        assert bench.run.length == 1
        bench.slowness.set()
        await bench.run.flush()
        assert [entry.text for entry in bench.log] == [None, "a", "bc"]

    async def test_keeps_texts_and_tool_calls_in_their_order(self) -> None:
        bench = Bench()
        await bench.run.started()
        parts: list[TextDelta | ToolCallDelta] = [
            TextDelta("a"),
            TextDelta("b"),
            ToolCallDelta("1", "", "look"),
            ToolCallDelta("1", "{"),
            ToolCallDelta("1", "}"),
            ToolCallDelta("2", "", "look"),
            TextDelta("c"),
        ]
        bench.slowness = asyncio.Event()
        bench.run.delta(TextDelta(""))
        for part in parts:
            bench.run.delta(part)
        bench.slowness.set()
        await bench.run.flush()
        reported = [entry.text or entry.tool_call for entry in bench.log[2:]]
        assert reported == ["ab", ToolCallDelta("1", "{}", "look"), ToolCallDelta("2", "", "look"), "c"]

    async def test_shows_nothing_before_it_is_in_the_log(self) -> None:
        bench = Bench()
        following = asyncio.create_task(anext(bench.run.follow(0)))
        starting = asyncio.create_task(bench.run.started())
        await asyncio.sleep(0)
        assert not following.done()
        await starting
        assert (await following) == bench.log[0]

    async def test_ends_every_follower_with_the_last_entry(self) -> None:
        bench = Bench()
        await bench.run.started()
        followers = [asyncio.create_task(bench.followed(after)) for after in (0, 1, 2, 99)]
        await settle()
        bench.run.delta(TextDelta("a"))
        await bench.run.end(bench.completion)
        whole, *rest = [await follower for follower in followers]
        assert [entry.kind for entry in whole if entry] == [EntryKind.STARTED, EntryKind.TEXT, EntryKind.ENDED]
        assert [[each for each in seen if each] for seen in rest] == [whole[1:], whole[2:], []]
        assert await bench.followed(3) == []

    async def test_gives_the_log_what_it_missed_while_it_was_away(self) -> None:
        bench = Bench()
        await bench.run.started()
        bench.is_away = True
        bench.run.delta(TextDelta("a"))
        await bench.run.flush()
        assert bench.run.length == 2
        bench.is_away = False
        bench.run.delta(TextDelta("b"))
        await bench.run.end(bench.completion)
        assert [entry.number for entry in bench.log] == [1, 2, 3, 4]
        assert words(bench.log) == "ab"

    async def test_lets_a_quiet_stream_say_that_it_lives(self) -> None:
        bench = Bench()
        await bench.run.started()
        following = bench.run.follow(1)
        waiting = asyncio.create_task(anext(following))
        await settle()
        bench.run.beat()
        assert await waiting is None
        await following.aclose()

    @given(st.lists(st.tuples(st.sampled_from(["delta", "flush", "pause"]), st.text(max_size=3)), max_size=20))
    async def test_never_loses_or_reorders_a_delta(self, steps: list[tuple[str, str]]) -> None:
        bench = Bench()
        await bench.run.started()
        following = asyncio.create_task(bench.followed())
        for step, text in steps:
            if step == "delta":
                bench.run.delta(TextDelta(text))
            elif step == "flush":
                await bench.run.flush()
            else:
                await bench.clock.advance(MIN_WAIT)
        await bench.run.end(bench.completion)
        seen = [entry for entry in await following if entry is not None]
        assert seen == bench.log
        assert [entry.number for entry in seen] == list(range(1, len(seen) + 1))
        assert words(seen) == "".join(text for step, text in steps if step == "delta")
        await bench.clock.advance(MIN_WAIT)
