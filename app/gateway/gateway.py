"""Every paid call enters here: room under the key's own limits, then a plan, then the life that all calls share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import UUID

from app.access.keys import KeyStore
from app.access.limits import KeyLimited
from app.access.principal import Principal, Scope
from app.costs.holds import Admitted, Joined, Ledger
from app.domain.errors import Refused
from app.domain.usage import Operation
from app.gateway.completions import Completion, CompletionRequest
from app.gateway.embeddings import Embeddings, EmbeddingsOutcome, EmbeddingsRequest
from app.gateway.leases import Leases
from app.gateway.lifecycle import Lifecycle
from app.gateway.planning import CallPlanner, PlannedCall
from app.gateway.running import RunningCompletion, RunningEmbeddings
from app.gateway.stored_completions import StoredCompletions
from app.gateway.stored_embeddings import StoredEmbeddings
from app.llm.fleet import Fleet
from app.llm.messages import EmbedCall, ModelCall
from app.llm.routing import RateLimited
from app.runtime.clock import Clock
from app.runtime.tasks import Grace
from app.telemetry.call_ended import CallListener


class Gateway:
    def __init__(
        self,
        *,
        clock: Clock,
        fleet: Fleet,
        ledger: Ledger,
        keys: KeyStore,
        planner: CallPlanner,
        documents: StoredCompletions,
        leases: Leases,
        on_end: CallListener | None = None,
    ) -> None:
        self._clock = clock
        self.ledger = ledger
        self._keys = keys
        self.calls = keys.calls
        self._planner = planner
        self._documents = documents
        self._completions: Lifecycle[Completion] = Lifecycle(
            clock=clock, fleet=fleet, ledger=ledger, calls=keys.calls, leases=leases, documents=documents, on_end=on_end
        )
        self._embeddings: Lifecycle[EmbeddingsOutcome] = Lifecycle(
            clock=clock,
            fleet=fleet,
            ledger=ledger,
            calls=keys.calls,
            leases=leases,
            documents=StoredEmbeddings(documents.sealer, documents.keep_content),
            on_end=on_end,
        )

    async def complete(self, request: CompletionRequest, principal: Principal) -> Completion:
        """The whole answer, committed to the ledger. Raises Refused with the problem, StoreUnavailable, Forbidden."""
        async with self.slot(principal):
            return await self._completions.run_call(await self._planner.plan(request, principal), self.begin)

    async def embed(self, request: EmbeddingsRequest, principal: Principal) -> Embeddings:
        """A vector for each text, committed to the ledger. Raises as `complete` does."""
        async with self.slot(principal):
            ended = await self._embeddings.run_call(
                await self._planner.plan_embeddings(request, principal), self._begin_embeddings
            )
        assert ended.embeddings is not None
        return ended.embeddings

    @asynccontextmanager
    async def slot(self, principal: Principal) -> AsyncIterator[None]:
        """Room under the key's own limits, for as long as a call runs; raises Refused(RateLimited)."""
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._keys.slot(principal))
            except KeyLimited as limited:
                raise Refused(
                    RateLimited("The limit of this API key is reached.", limited.retry_after, limited.scope)
                ) from limited
            yield

    async def completion(self, key: UUID, principal: Principal) -> Completion | None:
        """One that the caller may see, as long as it is kept."""
        stored = await self.ledger.stored(key)
        if stored is None or stored.operation is not Operation.COMPLETION:
            return None
        return self._documents.read(stored) if may_see(principal, stored.tenant, stored.agent) else None

    async def admit_call(self, call: PlannedCall[ModelCall]) -> Admitted | Joined:
        """Holds the worst case of the first target; raises Refused and StoreUnavailable, and then nothing is held."""
        return await self._completions.admit_call(call)

    def begin(self, call: PlannedCall[ModelCall], admitted: Admitted) -> RunningCompletion:
        return RunningCompletion(call, admitted, self.ledger, self._clock)

    def cancel_reason(self, call: PlannedCall[ModelCall]) -> str | None:
        """For the caller: why the call was cancelled. None if it was asked for or the process stops."""
        return self._completions.cancel_reason(call)

    async def settle(self, running: RunningCompletion, completion: Completion) -> None:
        """In the ledger when it returns; raises StoreUnavailable."""
        await self._completions.settle(running, completion)

    async def close(self, grace: Grace) -> None:
        """Waits for every call in flight, also those whose callers have left, as long as the grace lasts."""
        await asyncio.gather(self._completions.close(grace.left), self._embeddings.close(grace.left))

    def _begin_embeddings(self, call: PlannedCall[EmbedCall], admitted: Admitted) -> RunningEmbeddings:
        return RunningEmbeddings(call, admitted, self.ledger, self._clock)


def may_see(principal: Principal, tenant: str, agent: str | None) -> bool:
    """Another tenant's calls need ADMIN; a key that is bound to an agent sees that agent's alone."""
    return (principal.tenant == tenant or principal.may(Scope.ADMIN)) and principal.agent in {None, agent}
