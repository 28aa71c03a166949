"""Every paid call enters here. It gets a slot under its key's limits, then a plan, then it goes through the lifecycle that all
calls share.

A call that is started or streamed differs only in its sink: the answer goes to a log of events instead of to the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias
from uuid import UUID

from app.access.keys import KeyStore
from app.access.limits import KeyLimited
from app.access.principal import Principal
from app.cache.keys import EntryKey
from app.cache.tiered import Hit
from app.costs.holds import Admitted, Ledger
from app.domain.errors import Refused
from app.domain.usage import Operation
from app.gateway.cache_hits import RunningHit
from app.gateway.cached_answers import CachedAnswers
from app.gateway.cached_completions import CacheableCall, CachedCompletions
from app.gateway.completions import NO_SUCH_COMPLETION, Completion, CompletionRequest, CompletionStatus, OnClientLeave
from app.gateway.embeddings import Embeddings, EmbeddingsOutcome, EmbeddingsRequest
from app.gateway.leases import Leases
from app.gateway.lifecycle import Lifecycle
from app.gateway.live_answers import LiveAnswer
from app.gateway.planning import CallPlanner, PlannedCall, free_estimate
from app.gateway.running import MergeStored, RunningCompletion, RunningEmbeddings
from app.gateway.start_pacing import StartPacing
from app.gateway.stored_completions import CompletionReader
from app.gateway.stored_embeddings import StoredEmbeddings
from app.gateway.streams.event_log import EventLog
from app.gateway.streams.events import CompletionEvent, CompletionFailed
from app.gateway.streams.joined import HitOf, RunningJoined
from app.gateway.streams.streams import CompletionStreams
from app.llm.fleet import Fleet
from app.llm.messages import EmbedCall, ModelCall
from app.llm.router import Routed, RoutedVectors
from app.llm.routing import RateLimited
from app.runtime.clock import Clock
from app.runtime.drain import Drain
from app.telemetry.call_ended import CallListener

CANCEL_POLL_SECONDS = 0.05
CANCEL_WAIT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class _Followed:
    """A stream of another caller, and what makes a hit of its whole answer."""

    log: EventLog
    hit_of: HitOf


_Source: TypeAlias = Hit | _Followed | None
"""Where a stream gets its answer. None: from the providers."""


class Gateway:
    def __init__(
        self,
        *,
        clock: Clock,
        fleet: Fleet,
        ledger: Ledger,
        keys: KeyStore,
        planner: CallPlanner,
        leases: Leases,
        completions: CompletionReader,
        streams: CompletionStreams,
        drain: Drain,
        cached: CachedAnswers | None = None,
        on_end: CallListener | None = None,
    ) -> None:
        """`on_end` gets every call that has ended, for the traces."""
        self._clock = clock
        self._ledger = ledger
        self._keys = keys
        self._planner = planner
        self._leases = leases
        self._reader = completions
        self._streams = streams
        self._drain = drain
        self._cached = cached
        self._answering: set[asyncio.Task[Completion]] = set()
        self._pacing = StartPacing(clock)
        documents = completions.documents
        self._completions: Lifecycle[ModelCall, Routed, Completion] = Lifecycle(
            clock=clock,
            fleet=fleet,
            ledger=ledger,
            calls=keys.calls,
            leases=leases,
            documents=documents,
            route=fleet.router.route_completion,
            on_end=on_end,
        )
        self._embeddings: Lifecycle[EmbedCall, RoutedVectors, EmbeddingsOutcome] = Lifecycle(
            clock=clock,
            fleet=fleet,
            ledger=ledger,
            calls=keys.calls,
            leases=leases,
            documents=StoredEmbeddings(documents.sealer, documents.keep_content),
            route=fleet.router.route_embedding,
            on_end=on_end,
        )

    async def complete(self, request: CompletionRequest, principal: Principal) -> Completion:
        """Returns the whole answer after it is committed to the ledger. Raises Refused with the problem, StoreUnavailable,
        Forbidden."""
        async with self._slot(principal):
            run = partial(self._completions.run_call, create_running=self._running_completion)
            if self._cached is None or not self._cached.completions.uses_cache(request):
                return await run(await self._planner.plan(request, principal))
            return await self._cached.completions.complete(request, principal, run, self._completions.admit_free)

    async def earlier(self, request: CompletionRequest, principal: Principal) -> Completion | None:
        """Returns the completion that came first with the request's idempotency key. None if there is none; then nothing is
        held or sent. Raises the same errors as `complete`."""
        return await self._completions.earlier(await self._planner.plan(request, principal))

    async def complete_unasked(self, request: CompletionRequest, principal: Principal, text: str) -> Completion:
        """Returns a completion with this text. It asks no model and costs nothing. Raises the same errors as `complete`."""
        async with self._slot(principal):
            call = await self._planner.plan(request, principal)
            admission = await self._completions.admit_free(call)
            if isinstance(admission, Completion):
                return admission
            running = self._running_completion(replace(call, key=admission.call), admission)
            completion = running.finished_unasked(text)
            await self._completions.settle_unasked(running, completion)
        return completion

    async def embed(
        self, request: EmbeddingsRequest, principal: Principal, operation: Operation = Operation.EMBEDDING
    ) -> Embeddings:
        """Returns one vector for each text after they are committed to the ledger, as `operation`. Raises the same errors as
        `complete`."""
        async with self._slot(principal):
            call = await self._planner.plan_embeddings(request, principal, operation)
            if self._cached is None:
                ended = await self._run_embeddings(call)
            else:
                ended = await self._cached.embeddings.embed(
                    request, call, principal, self._run_embeddings, self._embeddings.admit_free
                )
        assert ended.embeddings is not None
        return ended.embeddings

    async def _run_embeddings(self, call: PlannedCall[EmbedCall], merge: MergeStored | None = None) -> EmbeddingsOutcome:
        return await self._embeddings.run_call(call, partial(self._running_embeddings, merge=merge))

    async def start(self, request: CompletionRequest, principal: Principal) -> Completion:
        """Returns as soon as the call is admitted and its log has begun. The call goes on in the background. Raises the same
        errors as `complete`."""
        found = await self._begin(request, principal)
        return found if isinstance(found, Completion) else await found.started()

    async def _begin(self, request: CompletionRequest, principal: Principal) -> EventLog | Completion:
        """Returns the log of a call that now runs here, or the call that came first with the idempotency key."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._slot(principal))
            async with self._pacing.turn():
                call = await self._planner.plan(request, principal, streamed=True)
                await self._streams.ready()
                begin = partial(self._begin_planned, principal=principal, stack=stack)
                if self._cached is None or not self._cached.completions.uses_cache(request):
                    return (await begin(call))[0]
            return await self._begin_cached(request, call, principal, self._cached.completions, begin)

    async def _begin_planned(
        self, call: PlannedCall[ModelCall], source: _Source = None, *, principal: Principal, stack: AsyncExitStack
    ) -> tuple[EventLog | Completion, asyncio.Task[Completion] | None]:
        """Does what `_begin` does, and also returns the task of a call that runs here. Takes over what `stack` holds."""
        join = partial(self.completion, principal=principal)
        free = None if source is None else free_estimate(call.plan.targets[0])
        admission = await self._completions.admit_call(call, join, free)
        if isinstance(admission, Completion):
            return admission, None
        call = replace(call, key=admission.call)
        running, log = self._open_log(call, admission, source)
        if self._cached is not None and call.cache_key is not None and source is None:
            self._cached.completions.live.began(EntryKey(call.payer.tenant, call.cache_key), log)
        return log, self._completions.begin(running, log, stack.pop_all())

    def _open_log(self, call: PlannedCall[ModelCall], admission: Admitted, source: _Source) -> tuple[RunningCompletion, EventLog]:
        if source is None:
            running = self._running_completion(call, admission)
            return running, self._streams.open_log(running)
        if isinstance(source, Hit):
            hit = RunningHit(source, call, admission, self._ledger, self._clock)
            return hit, self._streams.open_log(hit, hit.parts)
        joined = RunningJoined(call, admission, self._ledger, self._clock)
        parts = partial(joined.parts, source.log.producer, source.hit_of, self._streams.route)
        return joined, self._streams.open_log(joined, parts)

    async def _begin_cached(
        self,
        request: CompletionRequest,
        call: PlannedCall[ModelCall],
        principal: Principal,
        cached: CachedCompletions,
        begin: Callable[..., Awaitable[tuple[EventLog | Completion, asyncio.Task[Completion] | None]]],
    ) -> EventLog | Completion:
        """Begins a call as `_begin` does. While another caller's call makes the same answer, this one follows its stream, or
        waits for its end. If the caller asked for it and leaves while it waits, its call is cancelled as soon as it begins."""
        begun: asyncio.Future[EventLog | Completion] = asyncio.get_running_loop().create_future()

        async def run(call: PlannedCall[ModelCall], source: _Source = None) -> Completion:
            found, task = await begin(call, source)
            if begun.cancelled() and isinstance(found, EventLog):
                self._completions.cancel(found.key)
            elif not begun.done():
                begun.set_result(found)
            if isinstance(found, Completion):
                return found
            assert task is not None
            return await asyncio.shield(task)

        async def give(hit: Hit, cacheable: CacheableCall) -> Completion:
            return await run(await cacheable.planned(), hit)

        async def follow(live: LiveAnswer, hit_of: HitOf, call: PlannedCall[ModelCall]) -> Completion:
            assert isinstance(live, EventLog)
            return await run(call, _Followed(live, hit_of))

        async def plan() -> PlannedCall[ModelCall]:
            return call

        answering = asyncio.create_task(cached.answer(request, principal, call.asked, plan, run=run, give=give, follow=follow))
        self._answering.add(answering)
        answering.add_done_callback(self._answered)
        either: tuple[asyncio.Future[Any], ...] = (answering, begun)
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            is_left = self._ends_with_client(request) and not begun.cancel()
            if is_left and isinstance(log := begun.result(), EventLog):
                self._completions.cancel(log.key)
            raise
        return begun.result() if begun.done() else await answering

    async def stream(self, request: CompletionRequest, principal: Principal) -> AsyncGenerator[CompletionEvent, None]:
        """Starts a call and yields its events. If the call is refused, the refusal is the only event. If the request says so, the
        call that was started here is cancelled when its caller leaves. It does not matter who else watches it."""
        try:
            found = await self._begin(request, principal)
        except Refused as refusal:
            yield CompletionFailed(1, self._clock.now(), refusal.reason, None)
            return
        try:
            if isinstance(found, EventLog):
                await found.started()
            async with aclosing(self.events(found.key, None, principal)) as events:
                async for event in events:
                    yield event
        finally:
            if isinstance(found, EventLog) and self._ends_with_client(request):
                self._completions.cancel(found.key)

    def _ends_with_client(self, request: CompletionRequest) -> bool:
        """False while this process stops: it closed the connection itself, and the client goes on elsewhere."""
        return request.on_client_leave is OnClientLeave.CANCEL and not self._drain.closing

    def events(self, key: UUID, after: str | None, principal: Principal) -> AsyncGenerator[CompletionEvent, None]:
        """Yields every event after the cursor once and in order, up to the last one. The call may run in any process."""
        return self._streams.events(key, after, principal)

    async def completion(self, key: UUID, principal: Principal) -> Completion | None:
        """Returns the completion if the caller may see it and it is still kept."""
        return await self._reader.find(key, principal)

    async def cancel(self, key: UUID, principal: Principal) -> Completion:
        """Cancels a running completion and returns it as it ended. What was produced so far stays charged. A call of `complete`
        can only be cancelled if it has an idempotency key. Raises Refused(NotFound), StoreUnavailable."""
        found = await self._existing(key, principal)
        if found.status is CompletionStatus.RUNNING:
            await self._leases.cancel(key)
        deadline = self._clock.monotonic() + CANCEL_WAIT_SECONDS
        while found.status is CompletionStatus.RUNNING and self._clock.monotonic() < deadline:
            await self._clock.sleep(CANCEL_POLL_SECONDS)
            found = await self._existing(key, principal)
        if found.status is CompletionStatus.RUNNING:
            await self._leases.reclaim_orphan(key)
            found = await self._existing(key, principal)
        return found

    async def close(self) -> None:
        """Waits until every call in flight has ended, or until the grace period is over. Calls whose callers have left count
        too."""
        await asyncio.gather(self._completions.close(self._drain), self._embeddings.close(self._drain))
        if self._cached is not None:
            await self._cached.close()

    @asynccontextmanager
    async def _slot(self, principal: Principal) -> AsyncIterator[None]:
        """Takes a slot under the key's limits while a call runs. Raises Refused(RateLimited)."""
        try:
            async with self._keys.slot(principal):
                yield
        except KeyLimited as limited:
            raise Refused(RateLimited("The limit of this API key is reached.", limited.retry_after, limited.scope)) from limited

    def _answered(self, task: asyncio.Task[Completion]) -> None:
        """Errors of the task are not raised here: they were raised for the caller, or they are in the last event of its log."""
        self._answering.discard(task)
        if not task.cancelled():
            task.exception()

    async def _existing(self, key: UUID, principal: Principal) -> Completion:
        found = await self.completion(key, principal)
        if found is None:
            raise Refused(NO_SUCH_COMPLETION)
        return found

    def _running_completion(self, call: PlannedCall[ModelCall], admitted: Admitted) -> RunningCompletion:
        return RunningCompletion(call, admitted, self._ledger, self._clock)

    def _running_embeddings(
        self, call: PlannedCall[EmbedCall], admitted: Admitted, merge: MergeStored | None
    ) -> RunningEmbeddings:
        return RunningEmbeddings(call, admitted, self._ledger, self._clock, merge)
