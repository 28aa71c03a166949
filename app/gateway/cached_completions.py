"""Completions from the cache, for callers that ask for it with `cache`.

Only whole answers are stored: they ended normally or with tool calls, and no budget shortened them. A hit is looked up before
anything is held. It costs nothing and is returned even if a budget is spent. It is one usage record that shows what was saved.
Without an idempotency key that record is written after the answer, so a process that is killed may lose the last ones; they
contain no cost.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Final, TypeAlias

from app.access.principal import Principal
from app.cache.entries import Entry
from app.cache.keys import EntryKey, EntryKind, entry_key
from app.cache.origins import Origins
from app.cache.tiered import Hit, TieredCache
from app.costs.holds import Admitted, Ledger
from app.domain.errors import DeadlineExceeded, Refused
from app.domain.usage import CacheTier
from app.gateway.cache_hits import answer_body, given_completion, hit_settlement
from app.gateway.completions import CacheMode, CachePolicy, Completion, CompletionRequest, CompletionStatus
from app.gateway.hit_records import HitRecords
from app.gateway.live_answers import LiveAnswer, LiveAnswers
from app.gateway.planning import AskedCall, CallPlanner, PlannedCall
from app.gateway.stored_completions import StoredCompletions
from app.llm.messages import FinishReason, ModelCall
from app.llm.router import Configured
from app.llm.routing import ProvidersFailed
from app.runtime.clock import Clock
from app.runtime.request_hash import digest

OF_THE_CALL: Final = frozenset(
    {"cache", "agent", "labels", "timeout", "idempotency_key", "restart", "stream_reasoning", "on_client_leave", "grounding"}
)
"""Fields of a request that do not decide its answer."""
_WHOLE: Final = frozenset({FinishReason.STOP, FinishReason.TOOL_CALLS})

_DECIDING: Final = tuple(
    (field.name, None if field.default is dataclasses.MISSING else field.default)
    for field in dataclasses.fields(CompletionRequest)
    if field.name not in OF_THE_CALL
)
"""The other fields with their defaults."""

Made: TypeAlias = Completion | Hit
"""What an origin call made, or what another process stored."""
Plan: TypeAlias = Callable[[], Awaitable[PlannedCall[ModelCall]]]
Run: TypeAlias = Callable[[PlannedCall[ModelCall]], Awaitable[Completion]]
Admit: TypeAlias = Callable[[PlannedCall[ModelCall]], Awaitable[Admitted | Completion]]
Give: TypeAlias = Callable[[Hit, "CacheableCall"], Awaitable[Completion]]
Follow: TypeAlias = Callable[[LiveAnswer, Callable[[Completion], Hit], PlannedCall[ModelCall]], Awaitable[Completion]]
"""Shows the answer of a stream of this process while it comes."""


def asked_digest(request: CompletionRequest, route: Configured, agent: str | None) -> bytes:
    """The same for requests that must get the same answer. `agent` is the one that the key is bound to: such a key shares
    answers only with that agent. A field with its default value counts as if it did not exist."""
    asked = {name: value for name, default in _DECIDING if (value := getattr(request, name)) != default}
    cap = request.max_output_tokens or route.default_max_output_tokens
    return digest((asked, [str(target) for target in route.targets], cap, agent))


class CacheableCall:
    """A call that may be answered from the cache. It is planned only if a provider or the ledger is needed first."""

    def __init__(
        self, key: EntryKey, policy: CachePolicy, asked: AskedCall, plan: Plan, *, route: str | None, is_repeatable: bool
    ) -> None:
        """`route` is None if the call names its target. A call is repeatable if it has an idempotency key."""
        self.key = key
        self.policy = policy
        self.asked = asked
        self.route = route
        self.is_repeatable = is_repeatable
        self._plan = plan
        self._planned: PlannedCall[ModelCall] | None = None

    async def planned(self) -> PlannedCall[ModelCall]:
        """Raises what the planner raises."""
        if self._planned is None:
            self._planned = dataclasses.replace(await self._plan(), cache_key=self.key.name)
        return self._planned


class CachedCompletions:
    def __init__(
        self,
        cache: TieredCache,
        origins: Origins[Made],
        planner: CallPlanner,
        ledger: Ledger,
        clock: Clock,
        *,
        documents: StoredCompletions,
        records: HitRecords,
        default_ttl: timedelta,
    ) -> None:
        self._cache = cache
        self._origins = origins
        self._planner = planner
        self._ledger = ledger
        self._clock = clock
        self._documents = documents
        self._records = records
        self._default_ttl = default_ttl
        self.live: LiveAnswers[LiveAnswer] = LiveAnswers()

    def uses_cache(self, request: CompletionRequest) -> bool:
        return request.cache is not None and request.cache.mode is not CacheMode.OFF

    async def complete(self, request: CompletionRequest, principal: Principal, run: Run, admit: Admit) -> Completion:
        """Returns the completion of `run`, or one with the answer that was stored. `admit` is asked for a hit that has an
        idempotency key. Raises what the planner and `run` raise."""
        asked = self._planner.ask_completion(request, principal)
        plan = partial(self._planner.plan, request, principal, asked_call=asked)
        return await self.answer(request, principal, asked, plan, run=run, give=partial(self._give, admit=admit))

    async def answer(
        self,
        request: CompletionRequest,
        principal: Principal,
        asked: AskedCall,
        plan: Plan,
        *,
        run: Run,
        give: Give,
        follow: Follow | None = None,
    ) -> Completion:
        """Returns the completion of `run`, of `give` for a hit, or of `follow` for the answer of a stream that runs. Raises what
        they and `plan` raise."""
        policy = request.cache
        if policy is None or policy.mode is CacheMode.OFF:
            return await run(await plan())
        route = self._planner.configured(request.model)
        hashed = await self._planner.hash_request(request, partial(asked_digest, request, route, principal.agent))
        key = entry_key(asked.payer.tenant, EntryKind.COMPLETION, request.model or "default", hashed)
        is_repeatable = request.idempotency_key is not None
        call = CacheableCall(key, policy, asked, plan, route=route.route, is_repeatable=is_repeatable)
        if policy.mode is CacheMode.REFRESH:
            return await self._make(call, run)
        return await self._use(call, run, give, follow)

    async def _use(self, call: CacheableCall, run: Run, give: Give, follow: Follow | None) -> Completion:
        """The slower tiers are looked up by the caller that leads, for all who ask for the same meanwhile."""
        key, look_ups = call.key, itertools.count()

        async def find() -> Hit | None:
            return await self._cache.get(key, is_repeat=next(look_ups) > 0)

        while True:
            hit = await self._cache.get_from_memory(key)
            if hit is not None:
                return await give(hit, call)
            deadline = (await call.planned()).template.deadline
            origin = self._origins.join(key)
            if origin is None:
                make = partial(self._lead, call, run)
                made = await self._origins.lead(key, deadline, find=find, make=make)
                return made if isinstance(made, Completion) else await give(made, call)
            if follow is not None:
                live = await self.live.first_content(key, origin, deadline - self._clock.monotonic())
                if live is not None:
                    return await self._follow(call, live, follow)
            shared = await self._shared(key, origin, deadline)
            if isinstance(shared, Hit):
                return await give(shared, call)
            if shared is not None:
                return await run(await call.planned())

    async def close(self) -> None:
        """Returns when every call has ended and every record of a hit is written."""
        await self._origins.close()
        await self._records.flush()
        await self._cache.flush()

    async def _shared(self, key: EntryKey, origin: asyncio.Task[Made], deadline: float) -> Made | None:
        """Returns the answer of another caller's call: a completion, if it must not be returned from the cache. None if that
        call ended for a reason that concerns only its own caller."""
        try:
            made = await self._origins.wait(origin, deadline)
        except Refused as refused:
            if isinstance(refused.reason, ProvidersFailed):
                raise
            return None
        except DeadlineExceeded:
            if self._clock.monotonic() >= deadline:
                raise
            return None
        if isinstance(made, Hit):
            return self._cache.share(key, made.entry)
        if isinstance(made.problem, ProvidersFailed):
            raise Refused(made.problem)
        if made.status is not CompletionStatus.FINISHED or made.capped_by_budget:
            return None
        if not is_storable(made):
            return made
        return self._cache.share(key, self._entry(made, CachePolicy()))

    async def _lead(self, call: CacheableCall, run: Run) -> Completion:
        with self.live.leading(call.key):
            return await self._make(call, run)

    async def _follow(self, call: CacheableCall, live: LiveAnswer, follow: Follow) -> Completion:
        """The answer of a call that had to make its own after all is stored too."""

        def hit_of(made: Completion) -> Hit:
            entry = self._entry(made, call.policy)
            return self._cache.share(call.key, entry) or Hit(entry, CacheTier.MEMORY, timedelta(0))

        completion = await follow(live, hit_of, await call.planned())
        if completion.cache is None:
            await self._store(call, completion)
        return completion

    async def _make(self, call: CacheableCall, run: Run) -> Completion:
        completion = await run(await call.planned())
        await self._store(call, completion)
        return completion

    async def _store(self, call: CacheableCall, completion: Completion) -> None:
        if is_storable(completion):
            await self._cache.put(call.key, self._entry(completion, call.policy), asked_for=call.policy.ttl)

    def _entry(self, completion: Completion, policy: CachePolicy) -> Entry:
        now = self._clock.now()
        return Entry(
            body=answer_body(completion),
            began_at=completion.created_at,
            stored_at=now,
            expires_at=now + (policy.ttl or self._default_ttl),
            tags=policy.tags,
            cost_usd=completion.cost_usd,
        )

    async def _give(self, hit: Hit, call: CacheableCall, admit: Admit) -> Completion:
        if not call.is_repeatable:
            given = self._given(hit, call)
            self._records.add(hit_settlement(given, call.asked, self._documents))
            return given
        admission = await admit(await call.planned())
        if isinstance(admission, Completion):
            return admission
        given = dataclasses.replace(self._given(hit, call), key=admission.call)
        await self._ledger.settle(hit_settlement(given, call.asked, self._documents))
        return given

    def _given(self, hit: Hit, call: CacheableCall) -> Completion:
        return given_completion(hit, call.asked, self._clock, cache_key=call.key.name, route=call.route)


def is_storable(completion: Completion) -> bool:
    """A whole answer that nothing has shortened."""
    is_whole = completion.status is CompletionStatus.FINISHED and completion.finish_reason in _WHOLE
    return is_whole and completion.problem is None and not completion.capped_by_budget
