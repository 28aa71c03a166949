"""One streamed call where it runs: its entries, merged and numbered, in the shared log before anybody here is shown them.

Deltas wait for a moment and go out together: a core carries a bounded number of events a second, and readers see no difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from app.attempts import Attempt
from app.clock import Clock
from app.completion_entries import Entry, EntryKind
from app.completions import Completion
from app.costs.holds import Payer
from app.errors import StoreUnavailable
from app.llm.messages import TextDelta, ToolCallDelta

SHORTEST_MERGE, LONGEST_MERGE = 0.025, 0.5
"""Seconds that a delta waits for others."""
STREAMS_WITHOUT_DELAY = 20

Append = Callable[[Sequence[Entry]], Awaitable[None]]


def merging_seconds(streams: int) -> float:
    """How long news may wait for other news while so many streams run or are watched."""
    return min(LONGEST_MERGE, SHORTEST_MERGE * max(1.0, streams / STREAMS_WITHOUT_DELAY))


class StreamRun:
    """`append` writes to the shared log and raises StoreUnavailable while it is away: the stream then goes on here alone, and
    the log gets what it missed with the next entries."""

    def __init__(self, payer: Payer, clock: Clock, append: Append, count_running: Callable[[], int]) -> None:
        self.payer = payer
        self.has_begun = asyncio.Event()
        self.last: Completion | None = None
        """What the last entry shows, once there is one."""
        self._clock = clock
        self._append = append
        self._count_running = count_running
        self._entries: list[Entry] = []
        self._in_log = 0
        self._pending: list[TextDelta | ToolCallDelta] = []
        self._merging: asyncio.Task[None] | None = None
        self._grown = asyncio.Event()
        self._writing = asyncio.Lock()

    @property
    def length(self) -> int:
        """The number of the newest entry."""
        return len(self._entries)

    async def started(self) -> None:
        """The log has it, and so the lease, when this returns."""
        await self._write(self._entry(EntryKind.STARTED))
        self.has_begun.set()

    def delta(self, part: TextDelta | ToolCallDelta) -> None:
        self._pending.append(part)
        if self._merging is None:
            self._merging = asyncio.create_task(self._flush_later())

    async def rerouted(self, attempt: Attempt) -> None:
        await asyncio.shield(self._write(self._entry(EntryKind.REROUTED, attempt=attempt)))

    async def flush(self) -> None:
        """Everything that has come is in the log and shown when it returns."""
        await self._write()

    async def end(self, completion: Completion) -> None:
        """The ledger has it: `completion` is what the last event shows."""
        self.last = completion
        await self._write(self._entry(EntryKind.ENDED))
        if self._merging is not None:
            self._merging.cancel()

    def beat(self) -> None:
        """Wakes those who follow, so that they can say that the stream is alive."""
        self._wake()

    async def follow(self, after: int) -> AsyncGenerator[Entry | None, None]:
        """Every entry from the number after `after` on, as they come, up to the last one; None for a heartbeat."""
        position = after
        while True:
            while position < len(self._entries):
                position += 1
                yield self._entries[position - 1]
            if self._entries and self._entries[-1].is_last:
                return
            await self._grown.wait()
            if position >= len(self._entries):
                yield None

    async def _flush_later(self) -> None:
        await self._clock.sleep(merging_seconds(self._count_running()))
        self._merging = None
        await self.flush()

    async def _write(self, *entries: Entry) -> None:
        """What is pending, then these; numbered in the order in which they are written."""
        async with self._writing:
            pending, self._pending = self._pending, []
            first = len(self._entries) + 1
            found = [*map(self._delta, _merged(pending)), *entries]
            new = [replace(entry, number=first + place) for place, entry in enumerate(found)]
            if not new:
                return
            unlogged = [*self._entries[self._in_log :], *new]
            with suppress(StoreUnavailable):
                await self._append(unlogged)
                self._in_log = unlogged[-1].number
            self._entries.extend(new)
            self._wake()

    def _delta(self, part: TextDelta | ToolCallDelta) -> Entry:
        if isinstance(part, TextDelta):
            return Entry(0, self._clock.now(), EntryKind.TEXT, text=part.text)
        return Entry(0, self._clock.now(), EntryKind.TOOL_CALL, tool_call=part)

    def _entry(self, kind: EntryKind, attempt: Attempt | None = None) -> Entry:
        return Entry(0, self._clock.now(), kind, attempt=attempt)

    def _wake(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()


def _merged(parts: Sequence[TextDelta | ToolCallDelta]) -> list[TextDelta | ToolCallDelta]:
    """Neighbours of one kind, and of one tool call, become one."""
    merged: list[TextDelta | ToolCallDelta] = []
    texts: list[str] = []
    for part in parts:
        if isinstance(part, TextDelta):
            texts.append(part.text)
            continue
        if texts:
            merged.append(TextDelta("".join(texts)))
            texts = []
        last = merged[-1] if merged else None
        if isinstance(last, ToolCallDelta) and last.tool_call_id == part.tool_call_id and part.name is None:
            merged[-1] = ToolCallDelta(last.tool_call_id, last.arguments_delta + part.arguments_delta, last.name)
        else:
            merged.append(part)
    if texts:
        merged.append(TextDelta("".join(texts)))
    return merged
