"""The life that every paid call has: hold, route, settle, show. What it used is committed before its caller sees anything.

The read of the provider belongs to a task of this process, never to the client's connection: a client that leaves does not stop
what is already being paid for. A repeated idempotency key waits for the call that came first, here or in another process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from app.access.running_calls import RunningCalls
from app.costs.holds import AdmissionRequest, Admitted, Joined, Ledger, Settlement, StoredCall
from app.domain.attempts import Attempt
from app.domain.errors import DeadlineExceeded, Refused, StoreUnavailable
from app.domain.problems import ProblemCode
from app.domain.usage import TokenUsage
from app.events.stream_log import LogWrite
from app.gateway.completions import CompletionStatus
from app.gateway.leases import Leases
from app.gateway.planning import AnyCall, PlannedCall, Template
from app.llm.fleet import Fleet
from app.llm.router import Router
from app.llm.routing import Target
from app.runtime.clock import Clock
from app.runtime.tasks import drain
from app.telemetry.call_ended import CallEnded, CallListener

JOIN_POLL_SECONDS = 0.1
ORPHAN_CHECK_SECONDS = 1.0
"""Seconds without an end after which the owner of a joined call is checked."""
KEY_REVOKED = "The call was cancelled: its API key was revoked together with the calls that ran."


class Outcome(Protocol):
    """How a call ended. With a problem there is nothing to show."""

    @property
    def status(self) -> CompletionStatus: ...

    @property
    def problem(self) -> object | None: ...


Ended = TypeVar("Ended", bound=Outcome)
Ended_co = TypeVar("Ended_co", bound=Outcome, covariant=True)


class Running(Protocol[Ended_co]):
    """An admitted call on its way. `answer` raises what the router raises; the others say how a call ended that has none."""

    @property
    def call(self) -> AnyCall: ...

    @property
    def attempts(self) -> Sequence[Attempt]: ...

    @property
    def billed_attempts(self) -> tuple[Attempt, ...]: ...

    @property
    def usage(self) -> TokenUsage | None: ...

    @property
    def cost_usd(self) -> Decimal | None: ...

    async def answer(self, router: Router) -> Ended_co: ...

    def failed(self, problem: object) -> Ended_co: ...

    def cancelled(self, reason: str | None = None) -> Ended_co: ...


class Documents(Protocol[Ended]):
    """What the ledger keeps of a call, to show its outcome again."""

    def encode(self, ended: Ended) -> bytes | None: ...

    def read(self, stored: StoredCall) -> Ended: ...


class Lifecycle(Generic[Ended]):
    def __init__(
        self,
        *,
        clock: Clock,
        fleet: Fleet,
        ledger: Ledger,
        calls: RunningCalls,
        leases: Leases,
        documents: Documents[Ended],
        on_end: CallListener | None,
    ) -> None:
        """`on_end` gets every call that ended, for the traces."""
        self._clock = clock
        self._fleet = fleet
        self._ledger = ledger
        self._calls = calls
        self._leases = leases
        self._documents = documents
        self._on_end = on_end
        self._running: dict[UUID, asyncio.Task[Ended]] = {}

    async def run_call(
        self, call: PlannedCall[Template], begin: Callable[[PlannedCall[Template], Admitted], Running[Ended]]
    ) -> Ended:
        """How the call ended, or the one that came first with its idempotency key. Raises Refused with the problem,
        StoreUnavailable, DeadlineExceeded."""
        admission = await self.admit_call(call)
        while isinstance(admission, Joined):
            joined = await self._join(admission.call, call.template.deadline)
            if joined is not None:
                return _shown(joined)
            admission = await self.admit_call(call)
        return _shown(await asyncio.shield(self._start(begin(replace(call, key=admission.call), admission))))

    async def admit_call(self, call: AnyCall) -> Admitted | Joined:
        """Holds the worst case of the first target; raises Refused and StoreUnavailable, and then nothing is held."""
        return await self._ledger.admit(
            AdmissionRequest(call.key, call.operation, call.payer, call.estimate(call.plan.targets[0]), call.idempotency)
        )

    async def settle(self, running: Running[Ended], ended: Ended) -> None:
        """In the ledger when it returns; raises StoreUnavailable."""
        call, attempts = running.call, running.billed_attempts
        document = self._documents.encode(ended)
        await self._ledger.settle(
            Settlement(call.key, call.operation, call.payer, attempts, ended.status.value, document, call.started_at)
        )
        for attempt in attempts:
            if attempt.cost_usd is not None:
                self._fleet.add_cost(Target(attempt.provider, attempt.model), attempt.cost_usd)
        self._ended(running, ended.status, ended.problem)

    def cancel_reason(self, call: AnyCall) -> str | None:
        """For the caller: why the call was cancelled. None if it was asked for or the process stops."""
        return KEY_REVOKED if self._calls.is_cancelled(call.key_id) else None

    async def close(self, seconds: float) -> None:
        """Every call in flight is settled before its provider's client goes; one that takes longer is cancelled."""
        await drain(self._running.values(), seconds)

    def _start(self, running: Running[Ended]) -> asyncio.Task[Ended]:
        key = running.call.key
        task = self._running[key] = asyncio.create_task(self._run(running))
        task.add_done_callback(lambda done: self._forget(key, done))
        return task

    async def _run(self, running: Running[Ended]) -> Ended:
        answering = asyncio.create_task(running.answer(self._fleet.router))
        with self._calls.running(running.call.key_id, answering.cancel):
            return await self._settled(running, answering)

    async def _settled(self, running: Running[Ended], answering: asyncio.Task[Ended]) -> Ended:
        async with self._leased(running.call, answering.cancel):
            try:
                ended = await answering
            except asyncio.CancelledError:
                ended = running.cancelled(self.cancel_reason(running.call))
            except BaseException as error:
                if not running.billed_attempts:
                    await self._ledger.release(running.call.key)
                    self._ended(running, CompletionStatus.FAILED, error.reason if isinstance(error, Refused) else None)
                    raise
                ended = running.failed(error.reason if isinstance(error, Refused) else None)
                await self.settle(running, ended)
                if not isinstance(error, Refused):
                    raise
                return ended
            await self.settle(running, ended)
            return ended

    @asynccontextmanager
    async def _leased(self, call: AnyCall, cancel: Callable[[], object]) -> AsyncIterator[None]:
        """A call without an idempotency key cannot be joined or cancelled before it has ended, so it needs no lease."""
        if call.idempotency is None:
            yield
            return
        self._leases.hold(call.key, cancel)
        try:
            with suppress(StoreUnavailable):
                await self._leases.write(LogWrite(call.key, begins=True))
            yield
        finally:
            self._leases.drop(call.key)
            with suppress(StoreUnavailable):
                await self._leases.write(LogWrite(call.key, ends=True))

    async def _join(self, key: UUID, deadline: float) -> Ended | None:
        """Waits for the call that came first; None if it ended without having used anything, and so left no trace."""
        task = self._running.get(key)
        if task is not None:
            return await asyncio.shield(task)
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

    def _ended(self, running: Running[Ended], status: CompletionStatus, problem: object) -> None:
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
        self._running.pop(key, None)
        if not done.cancelled():
            done.exception()


def _shown(ended: Ended) -> Ended:
    """A failed call is a problem for the caller that waited for its answer."""
    if ended.problem is not None:
        raise Refused(ended.problem)
    return ended
