"""One streamed call where it runs: its entries, merged and numbered, in the shared log before anybody here is shown them.

Deltas wait for a moment and go out together: a core carries a bounded number of events a second, and readers see no difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress

from app.attempts import Attempt
from app.clock import Clock
from app.completion_entries import Entry, EntryKind, encode_entry
from app.completions import Completion
from app.errors import StoreUnavailable
from app.llm.messages import TextDelta, ToolCallDelta

SHORTEST_MERGE, LONGEST_MERGE = 0.025, 0.5
"""Seconds that a delta waits for others."""
_STREAMS_WITHOUT_DELAY = 20

Append = Callable[[Sequence[tuple[int, bytes]]], Awaitable[None]]


class StreamRun:
    """`append` writes to the shared log and raises StoreUnavailable while it is away: the stream then goes on here alone."""

    def __init__(self, tenant: str, clock: Clock, append: Append, count_running: Callable[[], int]) -> None:
        self.tenant = tenant
        self._clock = clock
        self._append = append
        self._count_running = count_running
        self._entries: list[Entry] = []
        self._pending: list[TextDelta | ToolCallDelta] = []
        self._has_pending = asyncio.Event()
        self._grown = asyncio.Event()
        self._writing = asyncio.Lock()
        self._last: Completion | None = None

    async def started(self) -> None:
        await self._write([self._entry(EntryKind.STARTED)])

    def delta(self, part: TextDelta | ToolCallDelta) -> None:
        self._pending.append(part)
        self._has_pending.set()

    async def rerouted(self, attempt: Attempt) -> None:
        await self._write([self._entry(EntryKind.REROUTED, attempt=attempt)])

    async def end(self, completion: Completion) -> None:
        """The ledger has it: `completion` is what the last event shows."""
        await self.flush()
        self._last = completion
        await self._write([self._entry(EntryKind.ENDED)])

    async def merge(self) -> None:
        """Writes what is pending again and again until it is cancelled."""
        while True:
            await self._has_pending.wait()
            crowd = self._count_running() / _STREAMS_WITHOUT_DELAY
            await self._clock.sleep(min(LONGEST_MERGE, SHORTEST_MERGE * max(1.0, crowd)))
            await self.flush()

    async def flush(self) -> None:
        async with self._writing:
            self._has_pending.clear()
            pending, self._pending = self._pending, []
            entries: list[Entry] = []
            for part in _merged(pending):
                number = len(self._entries) + len(entries) + 1
                kind = EntryKind.TEXT if isinstance(part, TextDelta) else EntryKind.TOOL_CALL
                text = part.text if isinstance(part, TextDelta) else None
                tool_call = part if isinstance(part, ToolCallDelta) else None
                entries.append(Entry(number, self._clock.now(), kind, text, tool_call))
            await self._show(entries)

    @property
    def last(self) -> Completion:
        """The completion that the last entry shows."""
        assert self._last is not None
        return self._last

    def beat(self) -> None:
        """Wakes those who follow, so that they can say that the stream is alive."""
        self._wake()

    async def follow(self, after: int) -> AsyncGenerator[Entry | None, None]:
        """Every entry from the number after `after` on, as they come, up to the last one; None for a heartbeat."""
        position = after
        while True:
            grown = self._grown
            if position >= len(self._entries):
                await grown.wait()
                if position >= len(self._entries):
                    yield None
            while position < len(self._entries):
                entry = self._entries[position]
                position += 1
                yield entry
                if entry.is_last:
                    return

    def _wake(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()

    def _entry(self, kind: EntryKind, attempt: Attempt | None = None) -> Entry:
        return Entry(0, self._clock.now(), kind, attempt=attempt)

    async def _write(self, entries: list[Entry]) -> None:
        await self.flush()
        async with self._writing:
            first = len(self._entries) + 1
            await self._show([_numbered(entry, first + place) for place, entry in enumerate(entries)])

    async def _show(self, entries: list[Entry]) -> None:
        if not entries:
            return
        with suppress(StoreUnavailable):
            await self._append([(entry.number, encode_entry(entry)) for entry in entries])
        self._entries.extend(entries)
        self._wake()


def _numbered(entry: Entry, number: int) -> Entry:
    return Entry(number, entry.at, entry.kind, entry.text, entry.tool_call, entry.attempt)


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
