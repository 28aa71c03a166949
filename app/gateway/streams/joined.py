"""A stream that shows the answer of another caller's stream while it comes. Both run in this process.

It costs nothing if that answer becomes whole: then it is a hit. If the other stream breaks, this one breaks as it would have
by itself: with the failure of the providers, or, with `restart`, it begins anew with a call of its own, which it pays for. The
same holds if the other stream ends for a reason of its own caller, because what was shown of it is not a whole answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Final, TypeAlias

from app.cache.tiered import Hit
from app.costs.holds import Admitted, Ledger
from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.errors import Refused
from app.domain.ids import new_uuid
from app.domain.problems import ProblemCode
from app.domain.usage import TokenUsage
from app.gateway.cache_hits import given_completion, hit_attempt
from app.gateway.completions import CacheHit, Completion, CompletionStatus
from app.gateway.planning import PlannedCall
from app.gateway.running import RunningCompletion
from app.gateway.streams.log_entries import Entry, EntryKind
from app.gateway.streams.producer import StreamProducer
from app.llm.messages import Answer, FinishReason, ModelCall, ReasoningDelta, TextDelta
from app.llm.router import Routed, RoutedPart
from app.llm.routing import ProvidersFailed, Restarted, RestartReason, Target
from app.runtime.clock import Clock

Parts: TypeAlias = Callable[[RunningCompletion], AsyncGenerator[RoutedPart, None]]
HitOf: TypeAlias = Callable[[Completion], Hit]
_LEFT: Final = ProvidersFailed(
    "The answer that this stream followed was ended by its own caller. It may be asked for again.", (), retryable=True
)
_BROKEN: Final = ProvidersFailed("The provider broke off the answer that this stream followed.", (), retryable=True)
_LATE: Final = ProvidersFailed("The call took longer than its timeout.", (), retryable=True, code=ProblemCode.TIMEOUT)


class RunningJoined(RunningCompletion):
    def __init__(self, call: PlannedCall[ModelCall], admitted: Admitted, ledger: Ledger, clock: Clock) -> None:
        super().__init__(call, admitted, ledger, clock)
        self._given: Completion | None = None
        self._attempt: Attempt | None = None

    @property
    def billed_attempts(self) -> tuple[Attempt, ...]:
        return super().billed_attempts if self._attempt is None else (self._attempt,)

    @property
    def cache_hit(self) -> CacheHit | None:
        return None if self._given is None else self._given.cache

    def restarted(self, broken: Attempt) -> Attempt:
        """The attempt of another call is charged there."""
        if any(attempt.key == broken.key for attempt in self.attempts):
            return super().restarted(broken)
        self._texts.clear()
        return broken

    def finished(self, routed: Routed) -> Completion:
        if self._given is None:
            return super().finished(routed)
        return replace(self._given, first_token_ms=self._completion(CompletionStatus.FINISHED).first_token_ms)

    async def parts(self, leader: StreamProducer, hit_of: HitOf, route: Parts) -> AsyncGenerator[RoutedPart, None]:
        """Yields what a router would yield. `hit_of` makes a hit of the other call's whole answer. `route` makes an answer for
        this call alone."""
        broken: Restarted | None = None
        async with aclosing(self._followed(leader)) as entries:
            async for entry in entries:
                broken = self._restart_of(entry)
                if broken is not None and not self.call.template.restart:
                    raise Refused(_BROKEN)
                part = broken or self._part(entry)
                if part is not None:
                    yield part
        made = leader.last
        if made is not None and _is_whole(made):
            yield self._take(hit_of(made))
            return
        if made is not None and isinstance(made.problem, ProvidersFailed) and made.status is CompletionStatus.FAILED:
            raise Refused(made.problem)
        if not self.call.template.restart:
            raise Refused(_LEFT)
        yield Restarted(self._broken_attempt(), RestartReason.CUT)
        self._first = False  # nothing is held yet, so the first attempt needs a top-up too
        async with aclosing(route(self)) as parts:
            async for each in parts:
                yield each

    async def _followed(self, leader: StreamProducer) -> AsyncGenerator[Entry, None]:
        """Yields the entries of the present answer, without what an earlier break has made void."""
        deadline = self.call.template.deadline
        async with aclosing(leader.follow(leader.begins_after)) as entries:
            while True:
                try:
                    async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                        entry = await anext(entries, None)
                        if entry is None and leader.last is not None:
                            return
                except TimeoutError:
                    raise Refused(_LATE) from None
                if entry is not None:
                    yield entry

    def _part(self, entry: Entry) -> RoutedPart | None:
        if entry.kind is EntryKind.TEXT:
            return TextDelta(entry.text or "")
        if entry.kind is EntryKind.REASONING:
            return ReasoningDelta(entry.text or "") if self.call.template.stream_reasoning else None
        return entry.tool_call

    def _restart_of(self, entry: Entry) -> Restarted | None:
        if entry.kind is not EntryKind.RESTARTED or entry.attempt is None or entry.reason is None:
            return None
        return Restarted(replace(entry.attempt, usage=None, cost_usd=None), entry.reason)

    def _take(self, hit: Hit) -> Routed:
        call = self.call
        given = given_completion(hit, call.asked, self._clock, cache_key=call.cache_key or "", route=call.plan.route)
        self._given = replace(given, created_at=self._admitted.admitted_at)
        self._attempt = hit_attempt(given, call.asked)
        answer = Answer(given.text, given.finish_reason or FinishReason.STOP, TokenUsage(), given.model or "")
        return Routed(answer, Target(given.provider or "", given.model or ""))

    def _broken_attempt(self) -> Attempt:
        target, now = self.call.plan.targets[0], self._clock.now()
        return Attempt(new_uuid(now), target.provider, target.model, AttemptOutcome.CANCELLED, now, 0.0)


def _is_whole(made: Completion) -> bool:
    """An answer that ended at its own cap is whole for all who have the same cap; one that a budget shortened is not."""
    is_cut = made.capped_by_budget and made.finish_reason is FinishReason.LENGTH
    return made.status is CompletionStatus.FINISHED and made.problem is None and not is_cut
