"""An answer from the cache as a completion: whole, or replayed as a stream of bounded pieces.

It asks no provider and costs nothing. The ledger gets one attempt without usage, which has the tier and what was saved.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from app.cache.tiered import Hit
from app.costs.holds import Admitted, Ledger, Settlement
from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.ids import new_uuid
from app.domain.money import ZERO
from app.domain.usage import TokenUsage
from app.gateway.completions import CacheHit, Completion, CompletionStatus
from app.gateway.planning import AskedCall, PlannedCall
from app.gateway.running import RunningCompletion
from app.gateway.stored_completions import StoredCompletions
from app.llm.messages import Answer, FinishReason, ModelCall, ProviderState, TextDelta, ToolCall, ToolCallDelta
from app.llm.router import Routed, RoutedPart
from app.llm.routing import Target
from app.runtime.clock import Clock

PIECE_LENGTH: Final = 4096
_NO_USAGE: Final = TokenUsage()


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What an entry keeps of the completion that made it: the answer, and nothing of the call."""

    text: str | None
    reasoning: Any
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason | None
    notes: tuple[str, ...]
    output_cap_tokens: int | None
    provider: str | None
    model: str | None
    provider_state: ProviderState | None


_decoder: Final = msgspec.json.Decoder(StoredAnswer)


def answer_body(completion: Completion) -> bytes:
    return msgspec.json.encode(
        StoredAnswer(
            completion.text,
            completion.reasoning,
            completion.tool_calls,
            completion.finish_reason,
            completion.notes,
            completion.output_cap_tokens,
            completion.provider,
            completion.model,
            completion.provider_state,
        )
    )


def given_completion(hit: Hit, call: AskedCall, clock: Clock, *, cache_key: str, route: str | None) -> Completion:
    """The stored answer as the completion of this call."""
    answer = _decoder.decode(hit.entry.body)
    latency_ms = (clock.monotonic() - call.started) * 1000
    return Completion(
        key=call.key,
        status=CompletionStatus.FINISHED,
        tenant=call.payer.tenant,
        created_at=call.started_at,
        text=answer.text,
        reasoning=answer.reasoning,
        tool_calls=answer.tool_calls,
        finish_reason=answer.finish_reason,
        notes=answer.notes,
        requested_model=call.requested_model,
        route=route,
        output_cap_tokens=answer.output_cap_tokens,
        provider=answer.provider,
        model=answer.model,
        usage=_NO_USAGE,
        cost_usd=ZERO,
        cache=CacheHit(hit.tier, hit.age.total_seconds(), hit.entry.cost_usd),
        cache_key=cache_key,
        latency_ms=latency_ms,
        overhead_ms=latency_ms,
        agent=call.payer.agent,
        labels=call.payer.labels,
        finished_at=clock.now(),
        provider_state=answer.provider_state,
        passages=call.passages,
    )


def hit_attempt(given: Completion, call: AskedCall) -> Attempt:
    return Attempt(
        key=new_uuid(call.started_at),
        provider=given.provider or "",
        model=given.model or "",
        outcome=AttemptOutcome.SUCCEEDED,
        started_at=call.started_at,
        latency_ms=given.latency_ms or 0.0,
        usage=_NO_USAGE,
        cost_usd=ZERO,
    )


def hit_settlement(given: Completion, call: AskedCall, documents: StoredCompletions) -> Settlement:
    assert given.cache is not None
    return Settlement(
        given.key,
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
        given = given_completion(hit, call.asked, clock, cache_key=call.cache_key or "", route=call.plan.route)
        self._given = replace(given, created_at=admitted.admitted_at)
        self._attempt = hit_attempt(given, call.asked)

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
