"""Completions from the cache, for callers that ask for it with `cache`.

Only whole answers are stored: they ended normally or with tool calls, and no budget shortened them. A hit is looked up before
anything is held. It costs nothing and is returned even if a budget is spent. It is one usage record that shows what was saved.
Without an idempotency key that record is written after the answer, so a process that is killed may lose the last ones; they
contain no cost.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Final, TypeAlias

import msgspec

from app.access.principal import Principal
from app.cache.entries import Entry
from app.cache.keys import EntryKey, EntryKind, entry_key
from app.cache.origins import Origins
from app.cache.tiered import Hit, TieredCache
from app.costs.holds import Admitted, Ledger
from app.domain.errors import DeadlineExceeded, Refused
from app.domain.usage import CacheTier
from app.gateway.cache_hits import given_completion, hit_settlement
from app.gateway.completions import CacheMode, CachePolicy, Completion, CompletionRequest, CompletionStatus
from app.gateway.planning import PlannedCall
from app.gateway.stored_completions import StoredCompletions
from app.llm.messages import FinishReason, ModelCall
from app.llm.routing import ProvidersFailed
from app.runtime.clock import Clock
from app.runtime.request_hash import digest

OF_THE_CALL: Final = frozenset(
    {"cache", "agent", "labels", "timeout", "idempotency_key", "restart", "stream_reasoning", "on_client_leave"}
)
"""Fields of a request that do not decide its answer."""
_WHOLE: Final = frozenset({FinishReason.STOP, FinishReason.TOOL_CALLS})

Made: TypeAlias = Completion | Hit
"""What an origin call made, or what another process stored."""
Run: TypeAlias = Callable[[PlannedCall[ModelCall]], Awaitable[Completion]]
Admit: TypeAlias = Callable[[PlannedCall[ModelCall]], Awaitable[Admitted | Completion]]
Give: TypeAlias = Callable[[Hit, PlannedCall[ModelCall]], Awaitable[Completion]]
_log = logging.getLogger(__name__)


def cache_key(request: CompletionRequest, call: PlannedCall[ModelCall], principal: Principal) -> EntryKey:
    """The same for requests that must get the same answer. A key that is bound to an agent shares answers only with that
    agent."""
    asked = {field.name: getattr(request, field.name) for field in dataclasses.fields(request) if field.name not in OF_THE_CALL}
    targets = [str(target) for target in call.plan.targets]
    hashed = digest((asked, targets, call.max_output_tokens, principal.agent))
    return entry_key(call.payer.tenant, EntryKind.COMPLETION, request.model or "default", hashed)


class CachedCompletions:
    def __init__(
        self,
        cache: TieredCache,
        origins: Origins[Made],
        ledger: Ledger,
        clock: Clock,
        documents: StoredCompletions,
        *,
        default_ttl: timedelta,
    ) -> None:
        self._cache = cache
        self._origins = origins
        self._ledger = ledger
        self._clock = clock
        self._documents = documents
        self._default_ttl = default_ttl
        self._settling: set[asyncio.Task[None]] = set()

    def uses_cache(self, request: CompletionRequest) -> bool:
        return request.cache is not None and request.cache.mode is not CacheMode.OFF

    async def complete(
        self, request: CompletionRequest, call: PlannedCall[ModelCall], principal: Principal, run: Run, admit: Admit
    ) -> Completion:
        """Returns the completion of `run`, or one with the answer that was stored. `admit` is asked for a hit that has an
        idempotency key. Raises what `run` raises."""
        return await self.answer(request, call, principal, run, partial(self._give, admit=admit))

    async def answer(
        self, request: CompletionRequest, call: PlannedCall[ModelCall], principal: Principal, run: Run, give: Give
    ) -> Completion:
        """Returns the completion of `run`, or of `give` for a hit. Raises what they raise."""
        policy = request.cache
        if policy is None or policy.mode is CacheMode.OFF:
            return await run(call)
        key = cache_key(request, call, principal)
        call = dataclasses.replace(call, cache_key=key.name)
        make = partial(self._make, key, policy, partial(run, call))
        if policy.mode is CacheMode.REFRESH:
            return await make()
        while True:
            hit = await self._cache.get(key)
            if hit is not None:
                return await give(hit, call)
            origin = self._origins.join(key)
            if origin is None:
                made = await self._origins.lead(
                    key, call.template.deadline, find=partial(self._cache.get, key, is_repeat=True), make=make
                )
                return made if isinstance(made, Completion) else await give(made, call)
            shared = await self._shared(origin, call)
            if isinstance(shared, Hit):
                return await give(shared, call)
            if shared is not None:
                return await run(call)

    async def close(self) -> None:
        """Returns when every call has ended and every record of a hit is written."""
        await self._origins.close()
        while self._settling:
            await asyncio.wait(self._settling)
        await self._cache.flush()

    async def _shared(self, origin: asyncio.Task[Made], call: PlannedCall[ModelCall]) -> Made | None:
        """Returns the answer of another caller's call: a completion, if it must not be returned from the cache. None if that
        call ended for a reason that concerns only its own caller."""
        try:
            made = await self._origins.wait(origin, call.template.deadline)
        except Refused as refused:
            if isinstance(refused.reason, ProvidersFailed):
                raise
            return None
        except DeadlineExceeded:
            if self._clock.monotonic() >= call.template.deadline:
                raise
            return None
        if isinstance(made, Hit):
            return made
        if isinstance(made.problem, ProvidersFailed):
            raise Refused(made.problem)
        if made.status is not CompletionStatus.FINISHED or made.capped_by_budget:
            return None
        if not is_storable(made):
            return made
        return Hit(self._entry(made, CachePolicy()), CacheTier.MEMORY, timedelta(0))

    async def _make(self, key: EntryKey, policy: CachePolicy, run: Callable[[], Awaitable[Completion]]) -> Completion:
        completion = await run()
        if is_storable(completion):
            await self._cache.put(key, self._entry(completion, policy))
        return completion

    def _entry(self, completion: Completion, policy: CachePolicy) -> Entry:
        now = self._clock.now()
        body = msgspec.json.encode(dataclasses.replace(completion, attempts=()))
        return Entry(
            body=body,
            began_at=completion.created_at,
            stored_at=now,
            expires_at=now + (policy.ttl or self._default_ttl),
            tags=policy.tags,
            cost_usd=completion.cost_usd,
        )

    async def _give(self, hit: Hit, call: PlannedCall[ModelCall], admit: Admit) -> Completion:
        if call.idempotency is None:
            given = given_completion(hit, call, self._clock)
            task = asyncio.create_task(self._ledger.settle(hit_settlement(given, call, self._documents)))
            self._settling.add(task)
            task.add_done_callback(self._settled)
            return given
        admission = await admit(call)
        if isinstance(admission, Completion):
            return admission
        call = dataclasses.replace(call, key=admission.call)
        given = given_completion(hit, call, self._clock)
        await self._ledger.settle(hit_settlement(given, call, self._documents))
        return given

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._settling.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.warning("the usage record of a cached answer was not written")


def is_storable(completion: Completion) -> bool:
    """A whole answer that nothing has shortened."""
    is_whole = completion.status is CompletionStatus.FINISHED and completion.finish_reason in _WHOLE
    return is_whole and completion.problem is None and not completion.capped_by_budget
