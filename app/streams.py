"""Completions that are watched while they run: started here, followed from anywhere, ended exactly once.

A run belongs to a task of this process and goes on when nobody watches. Its entries are in the shared log before they are shown;
what ends it is shown only after the ledger has it. Where the owner died, whoever watches settles the call as failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import replace
from itertools import count
from uuid import UUID

from app.access.principal import Principal
from app.calls import CallPlanner, PlannedCall, RunningCall
from app.clock import Clock
from app.completion_documents import CompletionDocuments, seal_context
from app.completion_entries import event_of, last_event
from app.completion_events import CompletionEvent, CompletionFailed, CompletionHeartbeat, number_of
from app.completions import Completion, CompletionRequest, CompletionStatus
from app.costs.holds import Joined
from app.costs.ledger import PostgresLedger
from app.errors import GreenLangError, Refused, StoreUnavailable
from app.events.stream_log import StreamLog
from app.gateway import Gateway
from app.llm.fleet import Fleet
from app.llm.router import Rerouted, Routed
from app.llm.routing import ProvidersFailed
from app.problems import NotFound
from app.stream_runs import StreamRun
from app.stream_watch import RemoteWatch

RENEWAL_SECONDS = 1.0
TICKS_TO_HEARTBEAT = 15
POLL_SECONDS = 0.05
_CANCEL_PATIENCE_SECONDS = 10.0
_UNSETTLED = ProvidersFailed("The answer could not be entered in the ledger.", (), retryable=True)
_log = logging.getLogger(__name__)


class CompletionStreams:
    def __init__(
        self,
        *,
        clock: Clock,
        fleet: Fleet,
        gateway: Gateway,
        planner: CallPlanner,
        ledger: PostgresLedger,
        documents: CompletionDocuments,
        log: StreamLog,
    ) -> None:
        self._clock = clock
        self._fleet = fleet
        self._gateway = gateway
        self._planner = planner
        self._ledger = ledger
        self._documents = documents
        self._log = log
        self._runs: dict[UUID, StreamRun] = {}
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._answering: dict[UUID, asyncio.Task[Completion]] = {}

    async def start(self, request: CompletionRequest, principal: Principal) -> Completion:
        """Returns once the call is committed; it runs on by itself. Raises as Gateway.complete does."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._gateway.slot(principal))
            call = await self._planner.plan(request, principal, streamed=True)
            admission = await self._gateway.admit(call)
            if isinstance(admission, Joined):
                return await self._known(admission.call, principal)
            call = replace(call, key=admission.call)
            running = RunningCall(call, admission, self._ledger, self._clock)
            self._begin(call, running, stack.pop_all())
        with suppress(StoreUnavailable):
            await self._log.renew([call.key])
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
        position = number_of(after)
        run = self._runs.get(key)
        found = self._here(key, run, position) if run is not None and run.tenant == principal.tenant else None
        async with aclosing(found or self._elsewhere(key, position, principal)) as events:
            async for event in events:
                yield event

    async def cancel(self, key: UUID, principal: Principal) -> Completion:
        """The completion as it ended; what was produced so far stays charged. Raises Refused(NotFound)."""
        found = await self._known(key, principal)
        if key in self._runs:
            self._cancel_here(key)
        elif found.status is CompletionStatus.RUNNING:
            await self._log.cancel(key)
        deadline = self._clock.monotonic() + _CANCEL_PATIENCE_SECONDS
        while found.status is CompletionStatus.RUNNING and self._clock.monotonic() < deadline:
            await self._clock.sleep(POLL_SECONDS)
            found = await self._known(key, principal)
        return found

    async def keep(self) -> None:
        """Renews the leases of what runs here and hears who is to be cancelled, until it is cancelled itself."""
        for tick in count(1):
            await self._clock.sleep(RENEWAL_SECONDS)
            try:
                for key in await self._log.renew(self._runs) if self._runs else ():
                    self._cancel_here(key)
            except StoreUnavailable:
                _log.warning("no stream's lease was renewed: Redis does not answer")
            if tick % TICKS_TO_HEARTBEAT == 0:
                for run in self._runs.values():
                    run.beat()

    async def close(self) -> None:
        """Waits for every stream in flight."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _begin(self, call: PlannedCall, running: RunningCall, slot: AsyncExitStack) -> None:
        context = seal_context(call.payer.tenant, call.key)
        seal = self._documents.sealer.seal

        async def append(entries: Sequence[tuple[int, bytes]]) -> None:
            await self._log.append(call.key, [(number, seal(entry, context)) for number, entry in entries])

        run = StreamRun(call.payer.tenant, self._clock, append, lambda: len(self._runs))
        self._runs[call.key] = run
        self._tasks[call.key] = asyncio.create_task(self._drive(call, running, run, slot))

    async def _drive(self, call: PlannedCall, running: RunningCall, run: StreamRun, slot: AsyncExitStack) -> None:
        async with slot:
            try:
                completion = await self._answered(call, running, run)
                try:
                    await self._gateway.settle(call, running, completion)
                except StoreUnavailable:
                    completion = replace(completion, status=CompletionStatus.FAILED, problem=_UNSETTLED)
                await run.end(completion)
                with suppress(StoreUnavailable):
                    await self._log.end(call.key)
            except Exception:
                _log.exception("a stream broke off")
                raise
            finally:
                self._runs.pop(call.key, None)
                self._tasks.pop(call.key, None)

    async def _answered(self, call: PlannedCall, running: RunningCall, run: StreamRun) -> Completion:
        """The completion as it is to be settled, however it ended."""
        answering = self._answering[call.key] = asyncio.create_task(self._answer(call, running, run))
        merging = asyncio.create_task(run.merge())
        try:
            return await answering
        except asyncio.CancelledError:
            return running.cancelled()
        except Refused as refusal:
            return running.failed(refusal.reason)
        except GreenLangError:
            _log.exception("a streamed call failed in an unforeseen way")
            return running.failed(None)
        finally:
            self._answering.pop(call.key, None)
            merging.cancel()

    async def _answer(self, call: PlannedCall, running: RunningCall, run: StreamRun) -> Completion:
        await run.started()
        parts = self._fleet.router.stream(call.plan, call.template, running.admit, running.observe, tenant=call.payer.tenant)
        async with aclosing(parts):
            async for part in parts:
                if isinstance(part, Routed):
                    return running.finished(part)
                if isinstance(part, Rerouted):
                    await run.rerouted(call.priced(part.attempt))
                else:
                    running.streamed(part)
                    run.delta(part)
        raise AssertionError("a stream ended without its last part")

    def _cancel_here(self, key: UUID) -> None:
        answering = self._answering.get(key)
        if answering is not None:
            answering.cancel()

    async def _here(self, key: UUID, run: StreamRun, position: int) -> AsyncGenerator[CompletionEvent, None]:
        async with aclosing(run.follow(position)) as entries:
            async for entry in entries:
                if entry is None:
                    yield CompletionHeartbeat(position, self._clock.now())
                    continue
                position = entry.number
                yield last_event(position, entry.at, run.last) if entry.is_last else event_of(entry, key)

    async def _elsewhere(self, key: UUID, position: int, principal: Principal) -> AsyncGenerator[CompletionEvent, None]:
        watch = RemoteWatch(self._clock, self._log, self._documents.sealer, self._ledger, self._gateway)
        async with aclosing(watch.events(key, position, principal)) as events:
            async for event in events:
                yield event

    async def _known(self, key: UUID, principal: Principal) -> Completion:
        found = await self._gateway.completion(key, principal)
        if found is None:
            raise Refused(NotFound("There is no such completion, or it is no longer kept."))
        return found
