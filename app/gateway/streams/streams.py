"""Completions that are watched while they run: started here, followed from anywhere, ended exactly once.

A run belongs to a task of this process and goes on without watchers. Its entries are in the shared log before they are shown;
what ends it is shown only after the ledger has it. If the owner died, a watcher settles the call as failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from uuid import UUID

from app.access.principal import Principal
from app.costs.holds import Joined
from app.domain.errors import Refused
from app.domain.problems import NotFound
from app.events.stream_log import LogWrite, StreamLog
from app.gateway.completions import Completion, CompletionRequest, CompletionStatus
from app.gateway.gateway import Gateway, may_see
from app.gateway.leases import Leases
from app.gateway.planning import CallPlanner
from app.gateway.running import RunningCompletion
from app.gateway.stored_completions import seal_context
from app.gateway.streams.events import CompletionEvent, CompletionFailed, CompletionHeartbeat, number_of
from app.gateway.streams.log_entries import Entry, encode_entry, event_of, last_event
from app.gateway.streams.producer import StreamProducer
from app.gateway.streams.remote_watch import BEYOND_THE_END, UNSETTLED, RemoteWatch
from app.gateway.streams.seals import Seals
from app.llm.fleet import Fleet
from app.llm.router import Rerouted, Routed
from app.runtime.clock import Clock
from app.runtime.tasks import Grace
from app.runtime.ticks import Ticks

HEARTBEAT_SECONDS = 15.0
POLL_SECONDS = 0.05
_CANCEL_WAIT_SECONDS = 10.0
_STARTING_AT_ONCE = 16
_START_WAIT_SECONDS = 5.0
_BUSY_SECONDS = 0.03
"""A turn of the event loop that takes longer is a sign of too much work."""
_log = logging.getLogger(__name__)


class CompletionStreams:
    def __init__(
        self,
        *,
        clock: Clock,
        fleet: Fleet,
        gateway: Gateway,
        planner: CallPlanner,
        seals: Seals,
        leases: Leases,
        log: StreamLog,
    ) -> None:
        self._clock = clock
        self._fleet = fleet
        self._gateway = gateway
        self._planner = planner
        self._seals = seals
        self._leases = leases
        self._remote_watch = RemoteWatch(clock, log, seals, leases, gateway)
        self._ticks = Ticks(clock)
        self._starting = asyncio.Semaphore(_STARTING_AT_ONCE)
        self._runs: dict[UUID, StreamProducer] = {}
        self._tasks: dict[asyncio.Task[None], asyncio.Task[Completion]] = {}
        """What drives each run, and what reads its answer."""

    async def start(self, request: CompletionRequest, principal: Principal) -> Completion:
        """Returns once the call is committed; it runs on by itself. Raises as Gateway.complete does."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._gateway.slot(principal))
            start_deadline = self._clock.monotonic() + _START_WAIT_SECONDS
            async with self._starting:
                await self._time_to_start(start_deadline)
                call = await self._planner.plan(request, principal, streamed=True)
                await self._seals.ready()
                admission = await self._gateway.admit_call(call)
            while isinstance(admission, Joined):
                known = await self._gateway.completion(admission.call, principal)
                if known is not None:
                    return known
                admission = await self._gateway.admit_call(call)  # it ended without having used anything, and so left no trace
            running = self._gateway.begin(replace(call, key=admission.call), admission)
            run = self._begin(running, stack.pop_all())
        await run.has_begun.wait()
        return running.unfinished()

    async def stream(self, request: CompletionRequest, principal: Principal) -> AsyncGenerator[CompletionEvent, None]:
        """Starts and watches; a refusal is the only event then."""
        try:
            completion = await self.start(request, principal)
        except Refused as refusal:
            yield CompletionFailed(1, self._clock.now(), refusal.reason, None)
            return
        async with aclosing(self.events(completion.key, None, principal)) as events:
            async for event in events:
                yield event

    async def events(self, key: UUID, after: str | None, principal: Principal) -> AsyncGenerator[CompletionEvent, None]:
        """Every event after the cursor, each once and in order, wherever the call runs; ends with the last one."""
        try:
            position = number_of(after)
        except Refused as refusal:
            yield CompletionFailed(1, self._clock.now(), refusal.reason, None)
            return
        run = self._runs.get(key)
        here = run is not None and may_see(principal, run.payer.tenant, run.payer.agent)
        async with aclosing(
            self._here(key, run, position) if run is not None and here else self._remote_watch.events(key, position, principal)
        ) as events:
            async for event in events:
                yield event

    async def cancel(self, key: UUID, principal: Principal) -> Completion:
        """The completion as it ended; what was produced so far stays charged. One of `completionCreate` can be cancelled while
        it runs if it has an idempotency key. Raises Refused(NotFound), StoreUnavailable."""
        found = await self._known(key, principal)
        if found.status is CompletionStatus.RUNNING:
            await self._leases.cancel(key)
        deadline = self._clock.monotonic() + _CANCEL_WAIT_SECONDS
        while found.status is CompletionStatus.RUNNING and self._clock.monotonic() < deadline:
            await self._clock.sleep(POLL_SECONDS)
            found = await self._known(key, principal)
        if found.status is CompletionStatus.RUNNING:
            await self._leases.reclaim_orphan(key)
            found = await self._known(key, principal)
        return found

    async def run_maintenance(self) -> None:
        """Lets the quiet streams say that they are alive, until it is cancelled."""
        while True:
            await self._clock.sleep(HEARTBEAT_SECONDS)
            for run in self._runs.values():
                run.beat()

    async def close(self, grace: Grace) -> None:
        """Every stream in flight is settled. If one takes longer than the grace period, only its reading is cancelled: it is
        settled at what had come, and its hold is released."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace.left)
        for answering in self._tasks.values():
            answering.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _time_to_start(self, until: float) -> None:
        """Returns once the event loop gets round soon, or at `until`: a thousand streams that begin together must not keep those
        that run from being read, nor time out while they connect."""
        before = self._clock.monotonic()
        while before < until:
            await asyncio.sleep(0)
            now = self._clock.monotonic()
            if now - before < _BUSY_SECONDS:
                return
            before = now

    def _begin(self, running: RunningCompletion, slot: AsyncExitStack) -> StreamProducer:
        call = running.call
        context = seal_context(call.payer.tenant, call.key)

        def append(entries: Sequence[Entry]) -> asyncio.Future[None]:
            sealed = [(entry.number, self._seals.seal(encode_entry(entry), context)) for entry in entries]
            return self._leases.write(LogWrite(call.key, sealed, begins=entries[0].number == 1, ends=entries[-1].is_last))

        run = StreamProducer(call.payer, self._clock, append, self._ticks)
        self._runs[call.key] = run
        answering = asyncio.create_task(self._answer(running, run))
        self._leases.hold(call.key, answering.cancel)
        driving = asyncio.create_task(self._drive(running, run, answering, slot))
        self._tasks[driving] = answering
        driving.add_done_callback(self._tasks.pop)
        return run

    async def _drive(
        self, running: RunningCompletion, run: StreamProducer, answering: asyncio.Task[Completion], slot: AsyncExitStack
    ) -> None:
        async with slot:
            with self._gateway.calls.running(running.call.key_id, answering.cancel):
                await self._see_through(running, run, answering)

    async def _see_through(self, running: RunningCompletion, run: StreamProducer, answering: asyncio.Task[Completion]) -> None:
        key = running.call.key
        try:
            await run.started()
            completion = await self._ended(answering, running)
            await run.flush()
            await run.end(await self._settled(running, completion))
        finally:
            self._leases.drop(key)
            self._runs.pop(key, None)

    async def _ended(self, answering: asyncio.Task[Completion], running: RunningCompletion) -> Completion:
        """The completion as it is to be settled, however it ended."""
        try:
            return await answering
        except asyncio.CancelledError:
            return running.cancelled(self._gateway.cancel_reason(running.call))
        except Refused as refusal:
            return running.failed(refusal.reason)
        except Exception:  # noqa: BLE001 (whatever happened, the watchers get an end, and the log the reason)
            _log.exception("a streamed call failed in an unforeseen way")
            return running.failed(None)

    async def _settled(self, running: RunningCompletion, completion: Completion) -> Completion:
        """What those who watch are shown: never an answer that the ledger does not have."""
        try:
            await self._gateway.settle(running, completion)
        except Exception:  # noqa: BLE001 (as above)
            _log.exception("a streamed call was not settled")
            return replace(completion, status=CompletionStatus.FAILED, problem=UNSETTLED)
        return completion

    async def _answer(self, running: RunningCompletion, run: StreamProducer) -> Completion:
        call = running.call
        await run.has_begun.wait()
        parts = self._fleet.router.route_stream(
            call.plan, call.template, running.admit_attempt, running.observe, tenant=call.payer.tenant
        )
        async with aclosing(parts):
            async for part in parts:
                if isinstance(part, Routed):
                    return running.finished(part)
                if isinstance(part, Rerouted):
                    run.rerouted(call.priced(part.attempt))
                else:
                    running.streamed(part)
                    run.delta(part)
        raise AssertionError("a stream ended without its last part")

    async def _here(self, key: UUID, run: StreamProducer, position: int) -> AsyncGenerator[CompletionEvent, None]:
        is_over = False
        async with aclosing(run.follow(position)) as entries:
            async for entry in entries:
                if entry is None:
                    yield CompletionHeartbeat(position, self._clock.now())
                    continue
                position, is_over = entry.number, entry.is_last
                yield event_of(entry, key) if run.last is None or not is_over else last_event(position, entry.at, run.last)
        if not is_over and position > run.length:
            yield CompletionFailed(position + 1, self._clock.now(), BEYOND_THE_END, run.last)

    async def _known(self, key: UUID, principal: Principal) -> Completion:
        found = await self._gateway.completion(key, principal)
        if found is None:
            raise Refused(NotFound("There is no such completion, or it is no longer kept."))
        return found
