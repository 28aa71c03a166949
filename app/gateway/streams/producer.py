"""One streamed call in the process that runs it. It merges and numbers entries and writes them to the shared log; only then do
watchers of this process see them.

At most one write of a call is under way. What arrives meanwhile is written next. The deltas of all calls of a process are
written together, a few dozen times a second, so a call needs no task or timer of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import count
from typing import TypeAlias

from app.costs.holds import Payer
from app.domain.attempts import Attempt
from app.domain.errors import StoreUnavailable
from app.gateway.completions import Completion
from app.gateway.streams.log_entries import Entry, EntryKind
from app.llm.messages import ContentDelta, TextDelta, ToolCallDelta, merged
from app.llm.routing import RestartReason
from app.runtime.clock import Clock
from app.runtime.ticks import Ticks

Append: TypeAlias = Callable[[Sequence[Entry]], asyncio.Future[None]]
_CONTENT = frozenset({EntryKind.TEXT, EntryKind.REASONING, EntryKind.TOOL_CALL})
_SECONDS_WITHOUT_LOG = 0.5
"""After a failed write a call waits this long before it writes again. Its last entry is always tried."""
_log = logging.getLogger(__name__)


class StreamProducer:
    """`append` writes to the shared log. If it fails with StoreUnavailable, the stream continues in this process only, and the
    next write repeats what the log missed."""

    def __init__(self, payer: Payer, clock: Clock, append: Append, ticks: Ticks) -> None:
        self.payer = payer
        self.has_begun = asyncio.Event()
        self.has_content = asyncio.Event()
        self.begins_after = 0
        """The number of the entry after which the present answer begins. It changes when the answer begins anew."""
        self.last: Completion | None = None
        """The completion that the last entry shows. None before the end."""
        self._clock = clock
        self._append = append
        self._entries: list[Entry] = []
        self._in_log = 0
        self._away_until = 0.0
        self._pending: list[ContentDelta | Entry] = []
        self._writing: asyncio.Future[None] | None = None
        self._ticks = ticks
        self._is_due = False
        self._followers: list[asyncio.Future[None]] = []

    @property
    def length(self) -> int:
        """The number of the newest entry."""
        return len(self._entries)

    async def started(self) -> None:
        """Writes the first entry, and the lease with it."""
        self._put(EntryKind.STARTED)
        await self.flush()
        self.has_begun.set()

    def delta(self, part: ContentDelta) -> None:
        self._pending.append(part)
        if not self._is_due and self._writing is None:
            self._is_due = True
            self._ticks.soon(self._write_merged)

    def rerouted(self, attempt: Attempt) -> None:
        self._put(EntryKind.REROUTED, attempt)

    def restarted(self, attempt: Attempt, reason: RestartReason) -> None:
        self._put(EntryKind.RESTARTED, attempt, reason)

    async def flush(self) -> None:
        """Returns when everything received so far is shown, and in the log if the log is available."""
        self._write()
        while self._writing is not None:
            await asyncio.wait([self._writing])

    async def end(self, completion: Completion) -> None:
        """Shows `completion` as the last event, after it was settled or could not be settled."""
        self.last = completion
        self._put(EntryKind.ENDED)
        await self.flush()

    def beat(self) -> None:
        """Wakes the followers. They then show a heartbeat."""
        self._wake()

    async def follow(self, after: int) -> AsyncGenerator[Entry | None, None]:
        """Yields every entry with a number above `after` as it comes, up to the last one; None for a heartbeat."""
        position = after
        while True:
            while position < len(self._entries):
                position += 1
                yield self._entries[position - 1]
            if self._entries and self._entries[-1].is_last:
                return
            grown = asyncio.get_running_loop().create_future()
            self._followers.append(grown)
            await grown
            if position >= len(self._entries):
                yield None

    def _put(self, kind: EntryKind, attempt: Attempt | None = None, reason: RestartReason | None = None) -> None:
        self._pending.append(Entry(0, self._clock.now(), kind, attempt=attempt, reason=reason))
        self._write()

    def _write_merged(self) -> None:
        self._is_due = False
        self._write()

    def _write(self) -> None:
        """Numbers and writes the pending parts in the order of their arrival. Does nothing while a write is under way; its end
        calls this again."""
        if self._writing is not None or not self._pending:
            return
        pending, self._pending = self._pending, []
        new = self._numbered(pending)
        if self._clock.monotonic() < self._away_until and not new[-1].is_last:
            self._show(new)
            return
        self._writing = self._append([*self._entries[self._in_log :], *new])
        self._writing.add_done_callback(partial(self._written, new))

    def _written(self, new: Sequence[Entry], writing: asyncio.Future[None]) -> None:
        error = writing.exception()
        if error is None:
            self._in_log = new[-1].number
        elif isinstance(error, StoreUnavailable):
            self._away_until = self._clock.monotonic() + _SECONDS_WITHOUT_LOG
        else:
            _log.error("a stream could not be written to its log", exc_info=error)
        self._writing = None
        self._show(new)
        self._write()

    def _show(self, new: Sequence[Entry]) -> None:
        self._entries += new
        for entry in new:
            if entry.kind is EntryKind.RESTARTED:
                self.begins_after = entry.number
            elif entry.kind in _CONTENT:
                self.has_content.set()
        self._wake()

    def _numbered(self, pending: Sequence[ContentDelta | Entry]) -> list[Entry]:
        now, numbers = self._clock.now(), count(len(self._entries) + 1)
        found: list[Entry] = []
        deltas: list[ContentDelta] = []
        for each in pending:
            if isinstance(each, Entry):
                found += _entries(deltas, now, numbers)
                found.append(replace(each, number=next(numbers)))
                deltas = []
            else:
                deltas.append(each)
        found += _entries(deltas, now, numbers)
        return found

    def _wake(self) -> None:
        followers, self._followers = self._followers, []
        for each in followers:
            if not each.done():
                each.set_result(None)


def _entries(deltas: Sequence[ContentDelta], now: datetime, numbers: Iterator[int]) -> Iterator[Entry]:
    for part in merged(deltas):
        if isinstance(part, ToolCallDelta):
            yield Entry(next(numbers), now, EntryKind.TOOL_CALL, tool_call=part)
        else:
            kind = EntryKind.TEXT if isinstance(part, TextDelta) else EntryKind.REASONING
            yield Entry(next(numbers), now, kind, text=part.text)
