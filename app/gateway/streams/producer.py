"""One streamed call where it runs: its entries, merged and numbered, in the shared log before any watcher here sees them.

At most one write of a run is under way; what comes meanwhile goes out together with the next. Deltas of all runs of a process are
written together, a few dozen times a second, and nothing here needs a task or a timer of its own.
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
from app.llm.messages import ContentDelta, TextDelta, merged
from app.runtime.clock import Clock
from app.runtime.ticks import Ticks

Append: TypeAlias = Callable[[Sequence[Entry]], asyncio.Future[None]]
_SECONDS_WITHOUT_LOG = 0.5
"""After the log was away a run does not try again for so long, except with its end."""
_log = logging.getLogger(__name__)


class StreamProducer:
    """`append` writes to the shared log; StoreUnavailable means that it is away: the stream then continues here alone, and the
    log gets what it missed with the next entries."""

    def __init__(self, payer: Payer, clock: Clock, append: Append, ticks: Ticks) -> None:
        self.payer = payer
        self.has_begun = asyncio.Event()
        self.last: Completion | None = None
        """What the last entry shows, once there is one."""
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
        """The log has it, and so the lease, when this returns."""
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

    async def flush(self) -> None:
        """Everything that has come is in the log and shown when it returns."""
        self._write()
        while self._writing is not None:
            await asyncio.wait([self._writing])

    async def end(self, completion: Completion) -> None:
        """The ledger has it: `completion` is what the last event shows."""
        self.last = completion
        self._put(EntryKind.ENDED)
        await self.flush()

    def beat(self) -> None:
        """Wakes the followers, which then show that the stream is alive."""
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
            grown = asyncio.get_running_loop().create_future()
            self._followers.append(grown)
            await grown
            if position >= len(self._entries):
                yield None

    def _put(self, kind: EntryKind, attempt: Attempt | None = None) -> None:
        self._pending.append(Entry(0, self._clock.now(), kind, attempt=attempt))
        self._write()

    def _write_merged(self) -> None:
        self._is_due = False
        self._write()

    def _write(self) -> None:
        """What is pending, numbered in the order in which it came; nothing while a write is under way, which calls this again."""
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
        if isinstance(part, TextDelta):
            yield Entry(next(numbers), now, EntryKind.TEXT, text=part.text)
        else:
            yield Entry(next(numbers), now, EntryKind.TOOL_CALL, tool_call=part)
