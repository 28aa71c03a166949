"""The sink of a watched call. Every part of the answer is in the shared log before a watcher sees it.

Nothing is sent to a provider before the log has its first entry and the call has its lease. From then on every process can
watch and cancel the call.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from uuid import UUID

from app.gateway.completions import Completion, CompletionStatus
from app.gateway.leases import Leases
from app.gateway.running import RunningCompletion
from app.gateway.streams.events import UNSETTLED
from app.gateway.streams.producer import StreamProducer
from app.llm.router import Rerouted, Routed, RoutedPart
from app.llm.routing import Restarted


class EventLog:
    is_watched = True

    def __init__(
        self,
        running: RunningCompletion,
        producer: StreamProducer,
        *,
        parts: Callable[[], AsyncGenerator[RoutedPart, None]],
        leases: Leases,
        on_closed: Callable[[], object],
    ) -> None:
        self._running = running
        self._producer = producer
        self._parts = parts
        self._leases = leases
        self._on_closed = on_closed

    @property
    def key(self) -> UUID:
        return self._running.call.key

    @property
    def producer(self) -> StreamProducer:
        return self._producer

    async def has_content(self) -> None:
        await self._producer.has_content.wait()

    async def started(self) -> Completion:
        """Returns the completion as it begins, once the log has its first entry."""
        await self._producer.has_begun.wait()
        return self._running.unfinished()

    @asynccontextmanager
    async def opened(self, cancel: Callable[[], object]) -> AsyncIterator[None]:
        key = self._running.call.key
        self._leases.hold(key, cancel)
        try:
            await self._producer.started()
            yield
        finally:
            self._leases.drop(key)
            self._on_closed()

    async def answer(self) -> Completion:
        running, call = self._running, self._running.call
        await self._producer.has_begun.wait()
        async with aclosing(self._parts()) as parts:
            async for part in parts:
                if isinstance(part, Routed):
                    return running.finished(part)
                if isinstance(part, Rerouted):
                    self._producer.rerouted(call.priced(part.attempt))
                elif isinstance(part, Restarted):
                    self._producer.restarted(running.restarted(part.attempt), part.reason)
                else:
                    running.streamed(part)
                    self._producer.delta(part)
        raise AssertionError("a stream ended without its last part")

    async def flush(self) -> None:
        await self._producer.flush()

    async def end(self, ended: Completion, *, is_settled: bool) -> None:
        if not is_settled:
            ended = replace(ended, status=CompletionStatus.FAILED, problem=UNSETTLED)
        await self._producer.end(ended)
