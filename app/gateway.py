"""One completion from end to end: plan, hold, route, settle, answer.

The read of the provider belongs to a task of this process, never to the client's connection: a client that leaves does not stop
what is already being paid for. What a call used is committed before its caller sees the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from uuid import UUID

from app.access.keys import KeyStore
from app.access.limits import KeyLimited
from app.access.principal import Principal
from app.calls import CallPlanner, PlannedCall, RunningCall
from app.clock import Clock
from app.completion_documents import CompletionDocuments
from app.completions import Completion, CompletionRequest, CompletionStatus
from app.costs.holds import AdmissionRequest, Admitted, Joined, Ledger, Settlement
from app.errors import DeadlineExceeded, Refused, StoreUnavailable
from app.events.stream_log import LogWrite
from app.leases import Leases
from app.llm.fleet import Fleet
from app.llm.router import Routed
from app.llm.routing import ProvidersFailed, RateLimited
from app.usage import Operation

JOIN_POLL_SECONDS = 0.1
SILENCE_BEFORE_DOUBT = 1.0
"""Seconds after which a call that was joined has its owner's life asked for."""
_ABANDONED = ProvidersFailed("The server that ran this call ended before it did.", (), retryable=True)


class Gateway:
    def __init__(
        self,
        *,
        clock: Clock,
        fleet: Fleet,
        ledger: Ledger,
        keys: KeyStore,
        planner: CallPlanner,
        documents: CompletionDocuments,
        leases: Leases,
    ) -> None:
        self._clock = clock
        self._fleet = fleet
        self.ledger = ledger
        self._keys = keys
        self._planner = planner
        self._documents = documents
        self._leases = leases
        self._running: dict[UUID, asyncio.Task[Completion]] = {}

    async def complete(self, request: CompletionRequest, principal: Principal) -> Completion:
        """The whole answer, committed to the ledger. Raises Refused with the problem, StoreUnavailable, Forbidden."""
        async with self.slot(principal):
            return await self._complete(request, principal)

    @asynccontextmanager
    async def slot(self, principal: Principal) -> AsyncIterator[None]:
        """Room under the key's own limits, for as long as a call runs; raises Refused(RateLimited)."""
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._keys.slot(principal))
            except KeyLimited as limited:
                raise Refused(RateLimited("The key's own limit is reached.", limited.retry_after, limited.scope)) from limited
            yield

    async def completion(self, key: UUID, principal: Principal) -> Completion | None:
        """One that the caller may see, as long as it is kept."""
        stored = await self.ledger.stored(key)
        if stored is None or not may_see(principal, stored.tenant, stored.agent):
            return None
        if stored.document is None:
            status = CompletionStatus(stored.status)
            problem = _ABANDONED if status is CompletionStatus.FAILED else None
            return Completion(
                key,
                status,
                stored.tenant,
                stored.created_at,
                problem=problem,
                agent=stored.agent,
                finished_at=stored.finished_at,
            )
        return self._documents.decode(stored.document, stored.tenant, key)

    async def close(self) -> None:
        """Waits for every call in flight: each is settled before its provider's client goes."""
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def admit(self, call: PlannedCall) -> Admitted | Joined:
        """Holds the worst case of the first target; raises Refused and StoreUnavailable, and then nothing is held."""
        return await self.ledger.admit(
            AdmissionRequest(call.key, Operation.COMPLETION, call.payer, call.estimate(call.plan.targets[0]), call.idempotency)
        )

    async def settle(self, call: PlannedCall, running: RunningCall, completion: Completion) -> None:
        """In the ledger when it returns; raises StoreUnavailable."""
        await self.ledger.settle(
            Settlement(
                call.key,
                Operation.COMPLETION,
                call.payer,
                running.billed_attempts,
                completion.status.value,
                self._documents.encode(completion),
            )
        )

    async def _complete(self, request: CompletionRequest, principal: Principal) -> Completion:
        call = await self._planner.plan(request, principal)
        admission = await self.admit(call)
        if isinstance(admission, Joined):
            return _shown(await self._join(admission.call, call, principal))
        call = replace(call, key=admission.call)
        task = self._running[call.key] = asyncio.create_task(self._run(call, admission))
        task.add_done_callback(lambda done: self._forget(call.key, done))
        return _shown(await asyncio.shield(task))

    async def _run(self, call: PlannedCall, admitted: Admitted) -> Completion:
        running = RunningCall(call, admitted, self.ledger, self._clock)
        answering = asyncio.create_task(
            self._fleet.router.complete(call.plan, call.template, running.admit, running.observe, tenant=call.payer.tenant)
        )
        async with self._leased(call, answering):
            try:
                completion = running.finished(await answering)
            except asyncio.CancelledError:
                completion = running.cancelled()
            except BaseException as error:
                if not running.billed_attempts:
                    await self.ledger.release(call.key)
                    raise
                completion = running.failed(error.reason if isinstance(error, Refused) else None)
                await self.settle(call, running, completion)
                if not isinstance(error, Refused):
                    raise
                return completion
            await self.settle(call, running, completion)
            return completion

    @asynccontextmanager
    async def _leased(self, call: PlannedCall, answering: asyncio.Task[Routed]) -> AsyncIterator[None]:
        """Nobody but the bearer of its idempotency key can know of a call before it has ended; those calls have a lease."""
        if call.idempotency is None:
            yield
            return
        self._leases.hold(call.key, answering.cancel)
        try:
            with suppress(StoreUnavailable):
                await self._leases.write(LogWrite(call.key, begins=True))
            yield
        finally:
            self._leases.drop(call.key)
            with suppress(StoreUnavailable):
                await self._leases.write(LogWrite(call.key, ends=True))

    async def _join(self, key: UUID, call: PlannedCall, principal: Principal) -> Completion:
        """Waits for the call that came first with this idempotency key, here or in another process."""
        task = self._running.get(key)
        if task is not None:
            return await asyncio.shield(task)
        asked = self._clock.monotonic()
        while (now := self._clock.monotonic()) < call.template.deadline:
            found = await self.completion(key, principal)
            if found is not None and found.status is not CompletionStatus.RUNNING:
                return found
            if now - asked >= SILENCE_BEFORE_DOUBT:
                asked = now
                await self._leases.bury(key)
            await self._clock.sleep(JOIN_POLL_SECONDS)
        raise DeadlineExceeded

    def _forget(self, key: UUID, done: asyncio.Task[Completion]) -> None:
        self._running.pop(key, None)
        if not done.cancelled():
            done.exception()


def may_see(principal: Principal, tenant: str, agent: str | None) -> bool:
    """A key that is bound to an agent sees that agent's calls alone."""
    return principal.tenant == tenant and principal.agent in {None, agent}


def _shown(completion: Completion) -> Completion:
    """A completion that failed is a problem to whoever waited for its answer."""
    if completion.problem is not None:
        raise Refused(completion.problem)
    return completion
