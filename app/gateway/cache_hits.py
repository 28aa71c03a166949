"""An answer from the cache as a completion: whole, or replayed as a stream of bounded pieces.

It asks no provider and costs nothing. The ledger gets one attempt without usage, which has the tier and what was saved.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Final

from app.cache.tiered import Hit
from app.costs.holds import Admitted, Ledger, Settlement
from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.ids import new_uuid
from app.domain.money import ZERO
from app.domain.usage import TokenUsage
from app.gateway.completions import CacheHit, Completion
from app.gateway.planning import PlannedCall
from app.gateway.running import RunningCompletion
from app.gateway.stored_completions import StoredCompletions, decode_completion
from app.llm.messages import Answer, FinishReason, ModelCall, TextDelta, ToolCallDelta
from app.llm.router import Routed, RoutedPart
from app.llm.routing import Target
from app.runtime.clock import Clock

PIECE_LENGTH: Final = 4096


def given_completion(hit: Hit, call: PlannedCall[ModelCall], clock: Clock) -> Completion:
    """The stored answer as the completion of this call."""
    latency_ms = (clock.monotonic() - call.started) * 1000
    return replace(
        decode_completion(hit.entry.body),
        key=call.key,
        created_at=call.started_at,
        finished_at=clock.now(),
        requested_model=call.requested_model,
        route=call.plan.route,
        cache_key=call.cache_key,
        usage=TokenUsage(),
        cost_usd=ZERO,
        cache=CacheHit(hit.tier, hit.age.total_seconds(), hit.entry.cost_usd),
        attempts=(),
        latency_ms=latency_ms,
        overhead_ms=latency_ms,
        first_token_ms=None,
        agent=call.payer.agent,
        labels=call.payer.labels,
    )


def hit_attempt(given: Completion, call: PlannedCall[ModelCall]) -> Attempt:
    return Attempt(
        key=new_uuid(call.started_at),
        provider=given.provider or "",
        model=given.model or "",
        outcome=AttemptOutcome.SUCCEEDED,
        started_at=call.started_at,
        latency_ms=given.latency_ms or 0.0,
        usage=TokenUsage(),
        cost_usd=ZERO,
    )


def hit_settlement(given: Completion, call: PlannedCall[ModelCall], documents: StoredCompletions) -> Settlement:
    assert given.cache is not None
    return Settlement(
        call.key,
        call.operation,
        call.payer,
        (hit_attempt(given, call),),
        given.status.value,
        documents.encode(given),
        call.started_at,
        cache_tier=given.cache.tier.value,
        saved_usd=given.cache.saved_usd,
    )


class RunningHit(RunningCompletion):
    """A started or streamed completion that comes from the cache."""

    def __init__(self, hit: Hit, call: PlannedCall[ModelCall], admitted: Admitted, ledger: Ledger, clock: Clock) -> None:
        super().__init__(call, admitted, ledger, clock)
        self._given = replace(given_completion(hit, call, clock), created_at=admitted.admitted_at)
        self._attempt = hit_attempt(self._given, call)

    @property
    def billed_attempts(self) -> tuple[Attempt, ...]:
        return (self._attempt,)

    @property
    def cache_hit(self) -> CacheHit | None:
        return self._given.cache

    def finished(self, routed: Routed) -> Completion:  # noqa: ARG002 - the answer is known
        return replace(self._given, first_token_ms=self._completion(self._given.status).first_token_ms)

    async def parts(self) -> AsyncGenerator[RoutedPart, None]:
        """Yields what a router would yield."""
        given = self._given
        text = given.text or ""
        for start in range(0, len(text), PIECE_LENGTH):
            yield TextDelta(text[start : start + PIECE_LENGTH])
        for call in given.tool_calls:
            yield ToolCallDelta(call.id, call.arguments, call.name)
        answer = Answer(given.text, given.finish_reason or FinishReason.STOP, TokenUsage(), given.model or "")
        yield Routed(answer, Target(given.provider or "", given.model or ""))
