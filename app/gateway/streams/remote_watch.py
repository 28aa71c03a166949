"""A completion's events for a watcher in a process that does not run the call. They are read from the shared log; the ledger
says how the call ended.

The owner writes every delta to the log before it settles, and the last entry after. If the log has no last entry and no process
owns the call any more, the ledger decides how the call ended. If the ledger then has a whole answer, a part of it may be
missing in the log, and an event tells the watcher so.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field, replace
from uuid import UUID

from app.access.principal import Principal
from app.domain.errors import StoreUnavailable
from app.domain.problems import CursorExpired
from app.events.heartbeat import HEARTBEAT_SECONDS
from app.events.stream_log import LogPage, StreamLog
from app.gateway.completions import NO_SUCH_COMPLETION, Completion, CompletionStatus
from app.gateway.leases import Leases
from app.gateway.stored_completions import CompletionReader, seal_context
from app.gateway.streams.events import (
    BEYOND_THE_END,
    UNSETTLED,
    CompletionDelta,
    CompletionEvent,
    CompletionFailed,
    CompletionHeartbeat,
    CompletionStarted,
    ToolCallDelta,
)
from app.gateway.streams.log_entries import Entry, EntryKind, decode_entry, event_of, last_event
from app.gateway.streams.seals import Seals
from app.runtime.batcher import Batcher
from app.runtime.clock import Clock
from app.runtime.ticks import waiting_seconds
from app.secrets.sealing import UnknownKeyError

ORPHAN_CHECK_SECONDS = 1.0
"""The owner is checked if no entry has come for this many seconds."""
REDIS_WAIT_SECONDS = 10.0
"""How long a watcher waits for the last events of an ended call while Redis is away."""
_EXPIRED = CursorExpired("The requested events are no longer kept.")


class RemoteWatch:
    """All watchers of this process. They read the log together."""

    def __init__(self, clock: Clock, log: StreamLog, seals: Seals, leases: Leases, completions: CompletionReader) -> None:
        self.clock = clock
        self.log = log
        self.seals = seals
        self.leases = leases
        self.completions = completions
        self.watchers = 0
        self._reads: Batcher[tuple[UUID, int], LogPage] = Batcher(log.read)

    async def events(self, key: UUID, position: int, principal: Principal) -> AsyncGenerator[CompletionEvent, None]:
        """Yields every event after `position`. Raises StoreUnavailable while PostgreSQL is away."""
        known = await self.completions.find(key, principal)
        if known is None:
            yield CompletionFailed(position + 1, self.clock.now(), NO_SUCH_COMPLETION, None)
            return
        watch = _RemoteWatcher(self, key, principal, position, known)
        self.watchers += 1
        try:
            while not watch.is_over:
                for event in await watch.next_events():
                    yield event
        finally:
            self.watchers -= 1

    async def read(self, key: UUID, position: int) -> LogPage | None:
        """Reads one page of the log; None while Redis is away."""
        try:
            return await self._reads.submit((key, position))
        except StoreUnavailable:
            return None


@dataclass(slots=True)
class _RemoteWatcher:
    """One watcher. `heard` is the time of the last entry, `asked` of the last check of the owner, and `away_since` is when
    Redis went away, all in the Clock's monotonic seconds."""

    at: RemoteWatch
    key: UUID
    principal: Principal
    position: int
    known: Completion
    is_over: bool = False
    heard: float = field(init=False)
    asked: float = field(init=False)
    away_since: float | None = None

    def __post_init__(self) -> None:
        self.heard = self.asked = self.at.clock.monotonic()

    @property
    def has_ended(self) -> bool:
        return self.known.status is not CompletionStatus.RUNNING

    async def next_events(self) -> list[CompletionEvent]:
        """Reads the log once and returns the new events. If there are none, it waits a moment."""
        now = self.at.clock.monotonic()
        page = await self.at.read(self.key, self.position)
        self.away_since = None if page is not None else self.away_since or now
        if page is not None and page.entries:
            self.heard = self.asked = now
            entries = await self._entries(page)
            return await self._unreadable() if entries is None else [await self._event(entry) for entry in entries]
        if page is not None and page.lost:
            return [self._fail(_EXPIRED)]
        if self.has_ended and await self._nothing_will_come(now):
            return await self._rest()
        return await self._pause(now)

    async def _pause(self, now: float) -> list[CompletionEvent]:
        if now - self.asked >= ORPHAN_CHECK_SECONDS:
            self.asked = now
            await self._check_for_orphan()
        await self.at.clock.sleep(2 * waiting_seconds(self.at.watchers))
        if now - self.heard < HEARTBEAT_SECONDS:
            return []
        self.heard = now
        return [CompletionHeartbeat(self.position, self.at.clock.now())]

    async def _entries(self, page: LogPage) -> list[Entry] | None:
        """Returns None if the key that sealed the entries is gone: then the log is lost."""
        try:
            return [await self._opened(sealed) for _, sealed in page.entries]
        except UnknownKeyError:
            return None

    async def _opened(self, sealed: bytes) -> Entry:
        return decode_entry(await self.at.seals.unseal(sealed, seal_context(self.known.tenant, self.key)))

    async def _unreadable(self) -> list[CompletionEvent]:
        await self._refresh()
        return self._without_log() if self.has_ended else [self._fail(_EXPIRED)]

    async def _event(self, entry: Entry) -> CompletionEvent:
        self.position = entry.number
        if not entry.is_last:
            return event_of(entry, self.key)
        self.is_over = True
        await self._refresh()
        if not self.has_ended:
            self.known = replace(self.known, status=CompletionStatus.FAILED, problem=UNSETTLED)
        return last_event(entry.number, entry.at, self.known)

    async def _check_for_orphan(self) -> None:
        """Checks, after a while without entries, whether the call has ended or its owner has died."""
        await self._refresh()
        if not self.has_ended and self.away_since is None:
            await self.at.leases.reclaim_orphan(self.key)
            await self._refresh()

    async def _refresh(self) -> None:
        self.known = await self.at.completions.find(self.key, self.principal) or self.known

    async def _nothing_will_come(self, now: float) -> bool:
        """If the owner is alive, it still writes the last entries after it has settled."""
        if self.away_since is not None:
            return now - self.away_since >= REDIS_WAIT_SECONDS
        try:
            return not await self.at.log.is_owned(self.key)
        except StoreUnavailable:
            return False

    async def _rest(self) -> list[CompletionEvent]:
        """Returns the last events of an ended call whose log gets no more entries."""
        try:
            newest = await self.at.log.newest(self.key)
        except StoreUnavailable:
            newest = None
        if newest is None:
            return self._without_log()
        number, sealed = newest
        try:
            has_end = (await self._opened(sealed)).is_last
        except UnknownKeyError:
            return self._without_log()
        end = number if has_end else number + 1
        if has_end and self.position < end:
            return []
        self.is_over = True
        if self.position > end:
            return [self._fail(BEYOND_THE_END)]
        if self.position == end:
            return []
        if self.known.status is CompletionStatus.FINISHED:
            return [self._fail(CursorExpired("The last events were lost. `partial` is the whole completion."))]
        if self.known.text is None:
            self.known = replace(self.known, text=await self._shown())
        return [last_event(end, self.at.clock.now(), self.known)]

    async def _shown(self) -> str | None:
        """Returns the text from the log that is not void, because the ledger has no text of a call whose owner died."""
        texts, position = list[str](), 0
        while (page := await self.at.read(self.key, position)) is not None and page.entries:
            for entry in await self._entries(page) or ():
                if entry.kind is EntryKind.RESTARTED:
                    texts.clear()
                elif entry.kind is EntryKind.TEXT:
                    texts.append(entry.text or "")
            position = page.entries[-1][0]
        return "".join(texts) or None

    def _without_log(self) -> list[CompletionEvent]:
        """Makes events from the result, for a watcher that starts at the beginning and for a call that was never streamed."""
        self.is_over = True
        events = list(self._events_from_result())
        if self.position and self.known.first_token_ms is not None:
            return [self._fail(_EXPIRED)]
        if self.position > len(events):
            return [self._fail(BEYOND_THE_END)]
        return events[self.position :]

    def _events_from_result(self) -> Iterator[CompletionEvent]:
        known, at = self.known, self.known.finished_at or self.known.created_at
        yield CompletionStarted(1, known.created_at, known.key)
        number = 1
        if known.text:
            number += 1
            yield CompletionDelta(number, at, known.text)
        for call in known.tool_calls:
            number += 1
            yield ToolCallDelta(number, at, call.id, call.arguments, call.name)
        yield last_event(number + 1, at, known)

    def _fail(self, problem: object) -> CompletionFailed:
        self.is_over = True
        return CompletionFailed(self.position + 1, self.at.clock.now(), problem, self.known if self.has_ended else None)
