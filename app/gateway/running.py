"""One admitted call while it runs: its attempts, what they cost, and how the call ended."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from functools import reduce
from operator import add
from typing import Generic, Protocol

from app.costs.holds import Admitted, Ledger
from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.money import ZERO
from app.domain.problems import InvalidInput, ProblemCode
from app.domain.usage import TokenUsage
from app.gateway.completions import (
    CacheHit,
    Completion,
    CompletionStatus,
)
from app.gateway.embeddings import Embeddings, EmbeddingsOutcome
from app.gateway.planning import PlannedCall, Template
from app.llm.messages import ContentDelta, EmbedCall, FinishReason, ModelCall, TextDelta, ToolCallDelta
from app.llm.router import Routed, RoutedVectors
from app.llm.routing import ProvidersFailed, RateLimited, Target
from app.runtime.clock import Clock

_NEVER_SENT = frozenset({AttemptOutcome.SKIPPED_BUDGET, AttemptOutcome.SKIPPED_LIMIT, AttemptOutcome.SKIPPED_OPEN_CIRCUIT})


class RunningCall(Generic[Template]):
    """What one admitted call has done so far. Each attempt is priced when it ends."""

    def __init__(self, call: PlannedCall[Template], admitted: Admitted, ledger: Ledger, clock: Clock) -> None:
        self.call: PlannedCall[Template] = call
        self._admitted = admitted
        self._ledger = ledger
        self._clock = clock
        self._first = True
        self._cap = admitted.output_cap_tokens
        self._cap_without_budgets = call.output_cap(call.plan.targets[0])
        self.attempts: list[Attempt] = []
        self._written: list[str] = []
        """The parts of the answer that the present attempt has produced."""

    async def admit_attempt(self, target: Target) -> int | None:
        """Returns the output cap of the next attempt. The first one uses the admission's cap; every further one needs a
        top-up."""
        first, self._first = self._first, False
        if first and target == self.call.plan.targets[0]:
            return self._cap
        cap = await self._ledger.top_up(self.call.key, self.call.payer, self.call.estimate(target))
        if cap is not None:
            self._cap, self._cap_without_budgets = cap, self.call.output_cap(target)
        return cap

    def observe(self, attempt: Attempt) -> None:
        if attempt.usage is None and self._was_perhaps_billed(attempt):
            attempt = replace(attempt, usage=self._estimated(attempt))
        self.attempts.append(self.call.priced(attempt))
        self._written.clear()
        if attempt.usage is not None and attempt.usage.confirmed:
            self._learn(attempt, attempt.usage)

    def _learn(self, attempt: Attempt, usage: TokenUsage) -> None:
        call = self.call
        if not call.media.count:
            call.estimator.learn(attempt.provider, attempt.model, call.counted_tokens, usage.input_tokens)
        if call.prompt is not None and len(call.plan.targets) > 1:
            call.prompt.served(Target(attempt.provider, attempt.model), usage)

    @property
    def billed_attempts(self) -> tuple[Attempt, ...]:
        """The attempts that reached a provider. The ledger has one row for each."""
        return tuple(attempt for attempt in self.attempts if attempt.outcome not in _NEVER_SENT)

    @property
    def usage(self) -> TokenUsage | None:
        """The usage of all attempts together; None if no attempt has any."""
        usages = tuple(attempt.usage for attempt in self.attempts if attempt.usage is not None)
        return reduce(add, usages) if usages else None

    @property
    def cost_usd(self) -> Decimal | None:
        """The cost of all attempts together; None if an attempt with usage has no known price."""
        costs = [attempt.cost_usd for attempt in self.attempts if attempt.usage is not None]
        known = [cost for cost in costs if cost is not None]
        return sum(known, ZERO) if len(known) == len(costs) else None

    @property
    def cache_hit(self) -> CacheHit | None:
        """The source of the answer if no provider made it."""
        return None

    @property
    def saved_usd(self) -> Decimal | None:
        """What stored parts of the answer cost once."""
        return None if self.cache_hit is None else self.cache_hit.saved_usd

    def failure(self, problem: object) -> ProvidersFailed:
        """Describes the end of the call as a failure of every target that could be tried, because something was sent before."""
        if isinstance(problem, ProvidersFailed):
            return replace(problem, attempts=tuple(self.attempts))
        code = problem.code if isinstance(problem, RateLimited) else ProblemCode.PROVIDER_ERROR
        return ProvidersFailed("No other target could be tried.", tuple(self.attempts), retryable=True, code=code)

    def _was_perhaps_billed(self, attempt: Attempt) -> bool:
        """A provider also bills an answer that broke off or whose caller left."""
        if attempt.outcome is AttemptOutcome.SUCCEEDED or attempt.outcome in _NEVER_SENT:
            return False
        return attempt.outcome is AttemptOutcome.CANCELLED or bool(self._written)

    def _estimated(self, attempt: Attempt) -> TokenUsage:
        """The input tokens that were held, and the output that was received."""
        estimator, target = self.call.estimator, Target(attempt.provider, attempt.model)
        made = estimator.count_now(("".join(self._written),))
        output = min(self._cap, estimator.corrected(target.provider, target.model, made))
        return TokenUsage(uncached_input_tokens=self.call.input_tokens(target), visible_output_tokens=output, confirmed=False)


class RunningCompletion(RunningCall[ModelCall]):
    def __init__(self, call: PlannedCall[ModelCall], admitted: Admitted, ledger: Ledger, clock: Clock) -> None:
        super().__init__(call, admitted, ledger, clock)
        self._texts: list[str] = []
        self._first_token_ms: float | None = None

    def streamed(self, part: ContentDelta) -> None:
        """Records one part of the answer."""
        if self._first_token_ms is None:
            self._first_token_ms = (self._clock.monotonic() - self.call.started) * 1000
        if isinstance(part, ToolCallDelta):
            self._written += (part.name or "", part.arguments_delta)
            return
        self._written.append(part.text)
        if isinstance(part, TextDelta):
            self._texts.append(part.text)

    def restarted(self, broken: Attempt) -> Attempt:
        """Discards what was shown so far. Returns the attempt as it is charged."""
        self._texts.clear()
        return next(attempt for attempt in self.attempts if attempt.key == broken.key)

    def finished(self, routed: Routed) -> Completion:
        answer, call = routed.answer, self.call
        notes = answer.notes
        if call.max_output_tokens > (cap := call.output_cap(routed.target)):
            lowered = f"from {call.max_output_tokens} to {cap}, the maximum for {routed.target}"
            notes = (f"The output cap was lowered {lowered}.", *notes)
        return replace(
            self._completion(CompletionStatus.FINISHED),
            text=answer.text,
            reasoning=answer.reasoning,
            provider_state=answer.provider_state,
            tool_calls=answer.tool_calls,
            finish_reason=answer.finish_reason,
            notes=(*call.notes, *notes),
            provider=routed.target.provider,
            model=routed.target.model,
        )

    def finished_unasked(self, text: str) -> Completion:
        """The completion with an answer that no model was asked for."""
        return replace(self._completion(CompletionStatus.FINISHED), text=text, finish_reason=FinishReason.STOP)

    def failed(self, problem: object) -> Completion:
        """If nothing was sent, the problem is the one that prevented it."""
        if self.billed_attempts or not isinstance(problem, InvalidInput | RateLimited):
            problem = self.failure(problem)
        completion = self._completion(CompletionStatus.FAILED)
        return replace(completion, text="".join(self._texts) or None, problem=problem)

    def cancelled(self, reason: str | None = None) -> Completion:
        """The completion with what was received so far, which stays charged."""
        completion = self._completion(CompletionStatus.CANCELLED)
        notes = completion.notes if reason is None else (*completion.notes, reason)
        return replace(completion, text="".join(self._texts) or None, finish_reason=FinishReason.CANCELLED, notes=notes)

    def unfinished(self) -> Completion:
        completion = self._completion(CompletionStatus.RUNNING)
        return replace(completion, latency_ms=None, overhead_ms=None, finished_at=None)

    def _completion(self, status: CompletionStatus) -> Completion:
        call, now = self.call, self._clock.monotonic()
        latency_ms = (now - call.started) * 1000
        return Completion(
            key=call.key,
            status=status,
            tenant=call.payer.tenant,
            created_at=self._admitted.admitted_at,
            notes=call.notes,
            requested_model=call.requested_model,
            cache_key=call.cache_key,
            route=call.plan.route,
            output_cap_tokens=self._cap,
            capped_by_budget=self._cap < self._cap_without_budgets,
            usage=self.usage,
            cost_usd=self.cost_usd,
            attempts=tuple(self.attempts),
            latency_ms=latency_ms,
            first_token_ms=self._first_token_ms,
            overhead_ms=latency_ms - sum(attempt.latency_ms for attempt in self.attempts),
            agent=call.payer.agent,
            labels=call.payer.labels,
            finished_at=self._clock.now(),
            passages=call.passages,
        )


class MergeStored(Protocol):
    """Makes the answer from the vectors of a call and stored ones, which cost `saved_usd` once."""

    @property
    def saved_usd(self) -> Decimal | None: ...

    def __call__(self, embedded: Embeddings) -> Embeddings: ...


class RunningEmbeddings(RunningCall[EmbedCall]):
    def __init__(
        self,
        call: PlannedCall[EmbedCall],
        admitted: Admitted,
        ledger: Ledger,
        clock: Clock,
        merge: MergeStored | None = None,
    ) -> None:
        """`merge` joins the vectors of this call with stored ones."""
        super().__init__(call, admitted, ledger, clock)
        self._merge = merge
        self._saved_usd: Decimal | None = None

    @property
    def saved_usd(self) -> Decimal | None:
        return self._saved_usd

    def finished(self, routed: RoutedVectors) -> EmbeddingsOutcome:
        call, made, target = self.call, routed.embedded, routed.target
        embeddings = Embeddings(
            provider=target.provider,
            model=target.model,
            dimensions=len(made.vectors[0]),
            vectors=made.vectors,
            usage=self.usage or made.usage,
            cost_usd=self.cost_usd,
        )
        if self._merge is not None:
            embeddings = self._merge(embeddings)
            self._saved_usd = self._merge.saved_usd
        tenant, began_at = call.payer.tenant, self._admitted.admitted_at
        return EmbeddingsOutcome(call.key, tenant, CompletionStatus.FINISHED, embeddings, began_at=began_at)

    def failed(self, problem: object) -> EmbeddingsOutcome:
        return self._without_vectors(CompletionStatus.FAILED, self.failure(problem))

    def cancelled(self, reason: str | None = None) -> EmbeddingsOutcome:
        text = reason or "The call was cancelled."
        problem = ProvidersFailed(text, tuple(self.attempts), retryable=reason is None, code=ProblemCode.CANCELLED)
        return self._without_vectors(CompletionStatus.CANCELLED, problem)

    def _without_vectors(self, status: CompletionStatus, problem: ProvidersFailed) -> EmbeddingsOutcome:
        return EmbeddingsOutcome(self.call.key, self.call.payer.tenant, status, problem=problem)
