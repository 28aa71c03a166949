"""The streams of this process: those that run here, and those that are watched from here.

A watcher of a stream that runs here follows its producer. A watcher of any other stream reads the shared log.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TypeAlias
from uuid import UUID

from app.access.principal import Principal
from app.access.visibility import may_see
from app.domain.errors import Refused
from app.events.heartbeat import HEARTBEAT_SECONDS
from app.events.stream_log import LogWrite, StreamLog
from app.gateway.leases import Leases
from app.gateway.running import RunningCompletion
from app.gateway.stored_completions import CompletionReader, seal_context
from app.gateway.streams.event_log import EventLog
from app.gateway.streams.events import BEYOND_THE_END, CompletionEvent, CompletionFailed, CompletionHeartbeat, number_of
from app.gateway.streams.log_entries import Entry, encode_entry, event_of, last_event
from app.gateway.streams.producer import StreamProducer
from app.gateway.streams.remote_watch import RemoteWatch
from app.gateway.streams.seals import Seals
from app.llm.router import RoutedPart, Router
from app.runtime.clock import Clock
from app.runtime.ticks import Ticks

Parts: TypeAlias = Callable[[], AsyncGenerator[RoutedPart, None]]
"""The answer of a call, in parts."""


class CompletionStreams:
    def __init__(
        self, clock: Clock, log: StreamLog, seals: Seals, leases: Leases, *, router: Router, completions: CompletionReader
    ) -> None:
        self._clock = clock
        self._router = router
        self._seals = seals
        self._leases = leases
        self._remote_watch = RemoteWatch(clock, log, seals, leases, completions)
        self._ticks = Ticks(clock)
        self._producers: dict[UUID, StreamProducer] = {}

    async def ready(self) -> None:
        """Returns when there is a key to seal the entries with. Raises StoreUnavailable."""
        await self._seals.ready()

    def open_log(self, running: RunningCompletion, parts: Parts | None = None) -> EventLog:
        """Returns the sink of an admitted call. From now on the call can be watched. Without `parts` the router makes the
        answer."""
        call = running.call
        context = seal_context(call.payer.tenant, call.key)

        def append(entries: Sequence[Entry]) -> asyncio.Future[None]:
            sealed = [(entry.number, self._seals.seal(encode_entry(entry), context)) for entry in entries]
            return self._leases.write(LogWrite(call.key, sealed, begins=entries[0].number == 1, ends=entries[-1].is_last))

        producer = self._producers[call.key] = StreamProducer(call.payer, self._clock, append, self._ticks)
        return EventLog(
            running,
            producer,
            parts=parts or partial(self.route, running),
            leases=self._leases,
            on_closed=partial(self._producers.pop, call.key),
        )

    def route(self, running: RunningCompletion) -> AsyncGenerator[RoutedPart, None]:
        """Yields the answer of a call as the router makes it."""
        call = running.call
        return self._router.route_stream(
            call.plan, call.template, running.admit_attempt, running.observe, tenant=call.payer.tenant
        )

    async def events(self, key: UUID, after: str | None, principal: Principal) -> AsyncGenerator[CompletionEvent, None]:
        """Yields every event after the cursor once and in order, up to the last one. The call may run in any process."""
        try:
            position = number_of(after)
        except Refused as refusal:
            yield CompletionFailed(1, self._clock.now(), refusal.reason, None)
            return
        producer = self._producers.get(key)
        if producer is not None and may_see(principal, producer.payer.tenant, producer.payer.agent):
            events = self._local_events(key, producer, position)
        else:
            events = self._remote_watch.events(key, position, principal)
        async with aclosing(events):
            async for event in events:
                yield event

    async def run_maintenance(self) -> None:
        """Makes quiet streams send heartbeats. Runs until it is cancelled."""
        while True:
            await self._clock.sleep(HEARTBEAT_SECONDS)
            for producer in self._producers.values():
                producer.beat()

    async def _local_events(self, key: UUID, producer: StreamProducer, position: int) -> AsyncGenerator[CompletionEvent, None]:
        is_over = False
        async with aclosing(producer.follow(position)) as entries:
            async for entry in entries:
                if entry is None:
                    yield CompletionHeartbeat(position, self._clock.now())
                    continue
                position, is_over = entry.number, entry.is_last
                if is_over and producer.last is not None:
                    yield last_event(position, entry.at, producer.last)
                else:
                    yield event_of(entry, key)
        if not is_over and position > producer.length:
            yield CompletionFailed(position + 1, self._clock.now(), BEYOND_THE_END, producer.last)
