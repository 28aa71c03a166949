"""The life of a paid call. It is the same whether its answer goes to a waiting caller or into a log of events:

    admit ──── refused ─────────────────────────────────────────► Refused; nothing is held
      │   └─── its idempotency key came before ─────────────────► that call's outcome; no trace of it: admit again
    begin      a task of this process owns the call; its sink opens: a lease, the first entry of the log
      │
    answer ─── the router makes attempt after attempt; the sink gets what comes
      │   ├─── cancelled, left, key revoked, shutdown ──────────► what has come is charged
      │   └─── failed, nothing used, not watched ───────────────► release; the call leaves no trace
    settle     usage, cost and document in the ledger, once; before that no one sees the outcome
      │
    end        the sink shows the outcome: to the callers that wait, or as the last entry of the log

A client that leaves does not stop what is already being paid for, unless it asked for that: the call belongs to its task, never
to a connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from app.access.running_calls import RunningCalls
from app.costs.holds import AdmissionRequest, Admitted, Estimate, Ledger, Settlement, StoredCall
from app.domain.attempts import Attempt
from app.domain.errors import DeadlineExceeded, Refused, StoreUnavailable
from app.domain.problems import ProblemCode
from app.domain.usage import TokenUsage
from app.events.stream_log import LogWrite
from app.gateway.completions import CacheHit, CompletionStatus
from app.gateway.leases import Leases
from app.gateway.planning import PlannedCall, Template, free_estimate
from app.llm.fleet import Fleet
from app.llm.messages import EmbedCall, ModelCall
from app.llm.router import Admit, Observe, Plan
from app.llm.routing import Target
from app.runtime.clock import Clock
from app.runtime.drain import Drain
from app.telemetry.call_ended import CallEnded, CallListener

JOIN_POLL_SECONDS = 0.1
ORPHAN_CHECK_SECONDS = 1.0
"""An owner of a joined call is checked if the call has not ended for this many seconds."""
KEY_REVOKED = "The call was cancelled: its API key was revoked together with the calls that ran."
_log = logging.getLogger(__name__)


class Outcome(Protocol):
    """How a call ended. If there is a problem, there is no answer."""

    @property
    def status(self) -> CompletionStatus: ...

    @property
    def problem(self) -> object | None: ...


Ended = TypeVar("Ended", bound=Outcome)
Ended_co = TypeVar("Ended_co", bound=Outcome, covariant=True)
Answered = TypeVar("Answered")
Answered_co = TypeVar("Answered_co", covariant=True)
Answered_contra = TypeVar("Answered_contra", contravariant=True)
Template_contra = TypeVar("Template_contra", ModelCall, EmbedCall, contravariant=True)


class Route(Protocol[Template_contra, Answered_co]):
    """The method of the Router that returns a whole answer."""

    def __call__(
        self, plan: Plan, call: Template_contra, admit: Admit, observe: Observe, *, tenant: str
    ) -> Awaitable[Answered_co]: ...


class Running(Protocol[Template, Answered_contra, Ended_co]):
    """An admitted call that runs, and how it ended."""

    @property
    def call(self) -> PlannedCall[Template]: ...

    @property
    def attempts(self) -> Sequence[Attempt]: ...

    @property
    def billed_attempts(self) -> tuple[Attempt, ...]: ...

    @property
    def usage(self) -> TokenUsage | None: ...

    @property
    def cache_hit(self) -> CacheHit | None: ...

    @property
    def saved_usd(self) -> Decimal | None: ...

    @property
    def cost_usd(self) -> Decimal | None: ...

    async def admit_attempt(self, target: Target) -> int | None: ...

    def observe(self, attempt: Attempt) -> None: ...

    def finished(self, routed: Answered_contra) -> Ended_co: ...

    def failed(self, problem: object) -> Ended_co: ...

    def cancelled(self, reason: str | None = None) -> Ended_co: ...


class Documents(Protocol[Ended]):
    """What the ledger stores of a call. The outcome can be shown again from it."""

    def encode(self, ended: Ended) -> bytes | None: ...

    def read(self, stored: StoredCall) -> Ended: ...


class Sink(Protocol[Ended]):
    """Where the answer of one call goes. If `is_watched` is true, others see the call from its start. It is then settled even
    if nothing was used, and no caller waits for its task."""

    @property
    def is_watched(self) -> bool: ...

    def opened(self, cancel: Callable[[], object]) -> AbstractAsyncContextManager[None]:
        """While this context is open, other processes can find the call and ask to cancel it."""
        ...

    async def answer(self) -> Ended:
        """Returns how the call ended. Raises what the router raises."""
        ...

    async def flush(self) -> None:
        """Returns when everything received so far has been shown."""
        ...

    async def end(self, ended: Ended, *, is_settled: bool) -> None:
        """Shows the outcome; nothing follows it. An answer that is not settled is never shown as a whole answer."""
        ...


@dataclass(frozen=True, slots=True)
class _Run(Generic[Ended]):
    task: asyncio.Task[Ended]
    answering: asyncio.Task[Ended]
    is_watched: bool


class Lifecycle(Generic[Template, Answered, Ended]):
    def __init__(
        self,
        *,
        clock: Clock,
        fleet: Fleet,
        ledger: Ledger,
        calls: RunningCalls,
        leases: Leases,
        documents: Documents[Ended],
        route: Route[Template, Answered],
        on_end: CallListener | None,
    ) -> None:
        """`route` returns whole answers. `on_end` gets every call that has ended, for the traces."""
        self._clock = clock
        self._fleet = fleet
        self._ledger = ledger
        self._calls = calls
        self._leases = leases
        self._documents = documents
        self._route: Route[Template, Answered] = route
        self._on_end = on_end
        self._runs: dict[UUID, _Run[Ended]] = {}

    async def run_call(
        self,
        call: PlannedCall[Template],
        create_running: Callable[[PlannedCall[Template], Admitted], Running[Template, Answered, Ended]],
    ) -> Ended:
        """Returns how the call ended. If a call with the same idempotency key came first, returns how that one ended. Raises
        Refused with the problem, StoreUnavailable, DeadlineExceeded."""
        admission = await self.admit_call(call, partial(self._wait_for_outcome, deadline=call.template.deadline))
        if not isinstance(admission, Admitted):
            return _without_problem(admission)
        running = create_running(replace(call, key=admission.call), admission)
        return _without_problem(await asyncio.shield(self.begin(running, CallerSink(running, self._route, self._leases))))

    async def admit_free(self, call: PlannedCall[Template]) -> Admitted | Ended:
        """Admits a call that costs nothing, also if a budget is spent; or returns how the call ended that came first with its
        idempotency key. Raises as `run_call` does."""
        join = partial(self._wait_for_outcome, deadline=call.template.deadline)
        admission = await self.admit_call(call, join, free_estimate(call.plan.targets[0]))
        return admission if isinstance(admission, Admitted) else _without_problem(admission)

    async def earlier(self, call: PlannedCall[Template]) -> Ended | None:
        """Returns how the call ended that came first with the idempotency key. None if there is none; nothing is held then.
        Raises as `run_call` does."""
        if call.idempotency is None:
            return None
        key = await self._ledger.earlier(call.payer, call.operation, call.idempotency)
        ended = None if key is None else await self._wait_for_outcome(key, call.template.deadline)
        return None if ended is None else _without_problem(ended)

    async def settle_unasked(self, running: Running[Template, Answered, Ended], ended: Ended) -> None:
        """Ends an admitted call that asks no provider. Raises StoreUnavailable."""
        await self._settle(running, ended)

    async def admit_call(
        self, call: PlannedCall[Template], join: Callable[[UUID], Awaitable[Ended | None]], estimate: Estimate | None = None
    ) -> Admitted | Ended:
        """Holds the worst-case cost of the first target. If a call with the same idempotency key came first, returns what
        `join` finds of it instead. Raises Refused and StoreUnavailable; then nothing is held."""
        estimate = estimate or call.estimate(call.plan.targets[0])
        while True:
            admission = await self._ledger.admit(
                AdmissionRequest(call.key, call.operation, call.payer, estimate, call.idempotency)
            )
            if isinstance(admission, Admitted):
                return admission
            joined = await join(admission.call)
            if joined is not None:
                return joined

    def begin(
        self,
        running: Running[Template, Answered, Ended],
        sink: Sink[Ended],
        slot: AbstractAsyncContextManager[object] | None = None,
    ) -> asyncio.Task[Ended]:
        """Starts the task that owns the call. The task holds `slot` until the call has ended."""
        answering = asyncio.create_task(sink.answer())
        task = asyncio.create_task(self._run(running, sink, answering, slot or nullcontext()))
        self._runs[running.call.key] = _Run(task, answering, sink.is_watched)
        task.add_done_callback(partial(self._forget, running.call.key))
        return task

    def cancel(self, key: UUID) -> None:
        """Stops reading the answer of a call that runs here, and settles what was received. Any other call is left alone."""
        run = self._runs.get(key)
        if run is not None:
            run.answering.cancel()

    async def close(self, drain: Drain) -> None:
        """Waits until every call in flight is settled, before the clients of the providers are closed. If a call takes longer
        than the grace period, reading its answer is cancelled, and the call is settled with what was received."""
        runs = list(self._runs.values())
        await drain.wait(run.task for run in runs)
        for run in runs:
            run.answering.cancel()
        await asyncio.gather(*(run.task for run in runs), return_exceptions=True)

    async def _run(
        self,
        running: Running[Template, Answered, Ended],
        sink: Sink[Ended],
        answering: asyncio.Task[Ended],
        slot: AbstractAsyncContextManager[object],
    ) -> Ended:
        with self._calls.running(running.call.key_id, answering.cancel):
            async with slot, sink.opened(answering.cancel):
                return await self._await_answer(running, sink, answering)

    async def _await_answer(
        self, running: Running[Template, Answered, Ended], sink: Sink[Ended], answering: asyncio.Task[Ended]
    ) -> Ended:
        try:
            ended = await answering
        except asyncio.CancelledError:
            reason = KEY_REVOKED if self._calls.is_cancelled(running.call.key_id) else None
            ended = running.cancelled(reason)
        except Exception as error:
            problem = error.reason if isinstance(error, Refused) else None
            if not running.billed_attempts and not sink.is_watched:
                await self._ledger.release(running.call.key)
                self._report_end(running, CompletionStatus.FAILED, problem)
                raise
            ended = running.failed(problem)
            if not isinstance(error, Refused):
                await self._settle_and_end(running, sink, ended)
                raise
        await self._settle_and_end(running, sink, ended)
        return ended

    async def _settle_and_end(self, running: Running[Template, Answered, Ended], sink: Sink[Ended], ended: Ended) -> None:
        """Settles the call before its outcome is shown, because an answer that is not in the ledger must not be shown. Raises
        StoreUnavailable."""
        await sink.flush()
        try:
            await self._settle(running, ended)
        except Exception:
            await sink.end(ended, is_settled=False)
            raise
        await sink.end(ended, is_settled=True)

    async def _settle(self, running: Running[Template, Answered, Ended], ended: Ended) -> None:
        call, attempts = running.call, running.billed_attempts
        document, hit = self._documents.encode(ended), running.cache_hit
        await self._ledger.settle(
            Settlement(
                call.key,
                call.operation,
                call.payer,
                attempts,
                ended.status.value,
                document,
                call.started_at,
                cache_tier=None if hit is None else hit.tier.value,
                saved_usd=running.saved_usd,
            )
        )
        for attempt in attempts:
            if attempt.cost_usd is not None:
                self._fleet.add_cost(Target(attempt.provider, attempt.model), attempt.cost_usd)
        self._report_end(running, ended.status, ended.problem)

    async def _wait_for_outcome(self, key: UUID, deadline: float) -> Ended | None:
        """Waits for the call that came first. Returns None if it ended without any usage and so left no trace."""
        run = self._runs.get(key)
        if run is not None and not run.is_watched:
            return await asyncio.shield(run.task)
        await self._leases.reclaim_if_owner_died(key)
        asked = self._clock.monotonic()
        while (now := self._clock.monotonic()) < deadline:
            stored = await self._ledger.stored(key)
            if stored is None:
                return None
            if CompletionStatus(stored.status) is not CompletionStatus.RUNNING:
                return self._documents.read(stored)
            if now - asked >= ORPHAN_CHECK_SECONDS:
                asked = now
                await self._leases.reclaim_orphan(key)
            await self._clock.sleep(JOIN_POLL_SECONDS)
        raise DeadlineExceeded

    def _report_end(self, running: Running[Template, Answered, Ended], status: CompletionStatus, problem: object) -> None:
        if self._on_end is None:
            return
        call = running.call
        code: object = getattr(problem, "code", None)
        self._on_end(
            CallEnded(
                operation=call.operation,
                requested_model=call.requested_model,
                route=call.plan.route,
                tenant=call.payer.tenant,
                agent=call.payer.agent,
                status=status.value,
                problem=code if isinstance(code, ProblemCode) else None,
                started_at=call.started_at,
                latency_ms=(self._clock.monotonic() - call.started) * 1000,
                attempts=tuple(running.attempts),
                usage=running.usage,
                cost_usd=running.cost_usd,
            )
        )

    def _forget(self, key: UUID, done: asyncio.Task[Ended]) -> None:
        run = self._runs.pop(key)
        error = None if done.cancelled() else done.exception()
        if error is not None and run.is_watched:
            _log.error("a streamed call failed unexpectedly, or was not settled", exc_info=error)


class CallerSink(Generic[Template, Answered, Ended]):
    """The sink of a call whose callers wait for its outcome. Without an idempotency key the call cannot be joined or cancelled
    before it has ended, so it needs no lease."""

    is_watched = False

    def __init__(self, running: Running[Template, Answered, Ended], route: Route[Template, Answered], leases: Leases) -> None:
        self._running: Running[Template, Answered, Ended] = running
        self._route: Route[Template, Answered] = route
        self._leases = leases

    @asynccontextmanager
    async def opened(self, cancel: Callable[[], object]) -> AsyncIterator[None]:
        key = self._running.call.key
        if self._running.call.idempotency is None:
            yield
            return
        self._leases.hold(key, cancel)
        try:
            with suppress(StoreUnavailable):
                await self._leases.write(LogWrite(key, begins=True))
            yield
        finally:
            self._leases.drop(key)
            with suppress(StoreUnavailable):
                await self._leases.write(LogWrite(key, ends=True))

    async def answer(self) -> Ended:
        running, call = self._running, self._running.call
        routed = await self._route(call.plan, call.template, running.admit_attempt, running.observe, tenant=call.payer.tenant)
        return running.finished(routed)

    async def flush(self) -> None:
        """Does nothing: no part is shown before the end."""

    async def end(self, ended: Ended, *, is_settled: bool) -> None:
        """Does nothing: the task's result shows the outcome."""


def _without_problem(ended: Ended) -> Ended:
    """Raises the problem of a failed call, because the caller waited for an answer."""
    if ended.problem is not None:
        raise Refused(ended.problem)
    return ended
