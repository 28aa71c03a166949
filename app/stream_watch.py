"""A completion's events as seen from a process that does not run it: read from the shared log, ended by what the ledger says.

The owner may be dead. Where its lease is gone and the log has no end, the call is settled at its estimate and ends as failed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from app.access.principal import Principal
from app.clock import Clock
from app.completion_documents import seal_context
from app.completion_entries import Entry, EntryKind, decode_entry, encode_entry, event_of, last_event
from app.completion_events import (
    CompletionDelta,
    CompletionEvent,
    CompletionFailed,
    CompletionHeartbeat,
    CompletionStarted,
)
from app.completions import Completion, CompletionStatus
from app.costs.ledger import PostgresLedger
from app.errors import StoreUnavailable
from app.events.stream_log import LogPage, StreamLog
from app.gateway import Gateway
from app.problems import CursorExpired, NotFound
from app.secrets import Sealer

POLL_SECONDS = 0.05
SILENCE_BEFORE_DOUBT = 1.0
"""Seconds without an entry after which the owner's life is asked for."""
HEARTBEAT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class RemoteWatch:
    clock: Clock
    log: StreamLog
    sealer: Sealer
    ledger: PostgresLedger
    gateway: Gateway

    async def events(self, key: UUID, position: int, principal: Principal) -> AsyncGenerator[CompletionEvent, None]:
        known = await self.gateway.completion(key, principal)
        if known is None:
            yield CompletionFailed(position + 1, self.clock.now(), NotFound("There is no such completion, or no longer."), None)
            return
        asked = heard = self.clock.monotonic()
        while True:
            page = await self._read(key, position)
            if page.lost or (not page.entries and known.status is not CompletionStatus.RUNNING):
                for event in self._without_log(known, position, lost=page.lost):
                    yield event
                return
            for entry in self._entries(page, key, principal.tenant):
                position = entry.number
                if entry.is_last:
                    yield last_event(position, entry.at, await self._ended(key, principal) or known)
                    return
                yield event_of(entry, key)
            now = self.clock.monotonic()
            if page.entries:
                asked = heard = now
                continue
            if now - asked >= SILENCE_BEFORE_DOUBT:
                asked = now
                await self._doubt(key, position, principal)
            if now - heard >= HEARTBEAT_SECONDS:
                heard = now
                yield CompletionHeartbeat(position, self.clock.now())
            await self.clock.sleep(POLL_SECONDS)

    def _without_log(self, ended: Completion, position: int, *, lost: bool) -> Iterator[CompletionEvent]:
        """A call that has ended and whose log is gone is told from its result, to who asks from the start."""
        now = self.clock.now()
        if lost or position:
            yield CompletionFailed(position + 1, now, CursorExpired("The events asked for are no longer kept."), None)
            return
        yield CompletionStarted(1, ended.created_at, ended.key)
        if ended.text:
            yield CompletionDelta(2, now, ended.text)
        yield last_event(3 if ended.text else 2, now, ended)

    def _entries(self, page: LogPage, key: UUID, tenant: str) -> Iterator[Entry]:
        context = seal_context(tenant, key)
        for _, sealed in page.entries:
            yield decode_entry(self.sealer.unseal(sealed, context))

    async def _read(self, key: UUID, position: int) -> LogPage:
        try:
            return await self.log.read(key, position)
        except StoreUnavailable:
            return LogPage(())

    async def _ended(self, key: UUID, principal: Principal) -> Completion | None:
        """What the ledger has of a call whose log has its end; an end is written after the settlement."""
        found = await self.gateway.completion(key, principal)
        return found if found is not None and found.status is not CompletionStatus.RUNNING else None

    async def _doubt(self, key: UUID, position: int, principal: Principal) -> None:
        """After a silence: a call that has ended, or whose owner is dead and that ends here and now, gets its last entry."""
        if await self._ended(key, principal) is None:
            try:
                if await self.log.is_owned(key):
                    return
            except StoreUnavailable:
                return
            await self.ledger.abandon(key)
            if await self._ended(key, principal) is None:
                return
        entry = Entry(position + 1, self.clock.now(), EntryKind.ENDED)
        with suppress(StoreUnavailable):
            sealed = self.sealer.seal(encode_entry(entry), seal_context(principal.tenant, key))
            await self.log.append(key, [(entry.number, sealed)])
