"""One call on its way: planned before anything is held or sent, then followed from attempt to attempt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import reduce
from operator import add
from uuid import UUID

import msgspec

from app.access.principal import Principal
from app.access.tenancy import agent_for
from app.attempts import Attempt, AttemptOutcome
from app.clock import Clock
from app.completions import Completion, CompletionRequest, CompletionStatus
from app.costs.estimate import Estimator
from app.costs.holds import Admitted, Estimate, IdempotencyKey, Ledger, Payer
from app.costs.prices import PriceBook
from app.ids import new_uuid
from app.llm.fleet import Fleet
from app.llm.messages import FinishReason, ImageUrl, InlineImage, ModelCall, Text, TextDelta, ToolCallDelta
from app.llm.router import Plan, Routed
from app.llm.routing import CallNeeds, ProvidersFailed, RateLimited, Target
from app.money import ZERO, round_usd
from app.problems import ProblemCode
from app.usage import TokenUsage

_NEVER_SENT = frozenset({AttemptOutcome.SKIPPED_BUDGET, AttemptOutcome.SKIPPED_LIMIT, AttemptOutcome.SKIPPED_OPEN_CIRCUIT})
IMAGE_TOKENS = 1600
"""What the providers charge at most for one image at their usual size."""
EXPECTED_OUTPUT_TOKENS = 500
"""For the order of targets by cost, where a call has no cap of its own."""


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """`started` is in the Clock's monotonic seconds. Prices are those at the start, also for the settlement."""

    key: UUID
    request: CompletionRequest
    payer: Payer
    plan: Plan
    template: ModelCall
    started: float
    started_at: datetime
    prices: PriceBook
    estimator: Estimator
    counted_tokens: int
    images: int
    min_output_tokens: int
    idempotency: IdempotencyKey | None

    def input_tokens(self, target: Target) -> int:
        return self.estimator.corrected(target.provider, target.model, self.counted_tokens) + IMAGE_TOKENS * self.images

    def estimate(self, target: Target) -> Estimate:
        input_tokens = self.input_tokens(target)
        rates = self.prices.rates(target.provider, target.model, self.started_at)
        return Estimate(
            provider=target.provider,
            model=target.model,
            input_tokens=input_tokens,
            max_output_tokens=self.template.max_output_tokens,
            min_output_tokens=self.min_output_tokens,
            input_usd=None if rates is None else rates.input_cost(input_tokens),
            output_token_usd=None if rates is None else rates.output_token_usd(input_tokens),
        )

    def priced(self, attempt: Attempt) -> Attempt:
        if attempt.usage is None:
            return attempt
        rates = self.prices.rates(attempt.provider, attempt.model, self.started_at)
        return attempt if rates is None else replace(attempt, cost_usd=rates.cost(attempt.usage))


class CallPlanner:
    def __init__(
        self, clock: Clock, fleet: Fleet, prices: PriceBook, estimator: Estimator, timeouts: Mapping[str, timedelta]
    ) -> None:
        """`timeouts` are the providers' totals by name: the first target's holds for a call that brings none."""
        self._clock = clock
        self._fleet = fleet
        self._prices = prices
        self._estimator = estimator
        self._timeouts = timeouts

    async def plan(self, request: CompletionRequest, principal: Principal, *, streamed: bool = False) -> PlannedCall:
        """Raises Refused(InvalidInput) where nothing configured can serve it, Forbidden for another agent than the key's."""
        started, started_at = self._clock.monotonic(), self._clock.now()
        payer = Payer(principal.tenant, principal.key_name, agent_for(principal, request.agent), request.labels)
        counted = await self._estimator.count(prompt_texts(request))
        images = count_images(request)
        plan = self._fleet.router.plan(
            request.model,
            request.routing,
            CallNeeds(input_tokens=counted + IMAGE_TOKENS * images, streamed=streamed),
            lambda target: self._expected(target, request, counted, started_at),
        )
        cap = request.max_output_tokens or plan.default_max_output_tokens
        timeout = request.timeout or self._timeouts[plan.targets[0].provider]
        return PlannedCall(
            key=new_uuid(started_at),
            request=request,
            payer=payer,
            plan=plan,
            template=_template(request, plan, cap, started + timeout.total_seconds()),
            started=started,
            started_at=started_at,
            prices=self._prices,
            estimator=self._estimator,
            counted_tokens=counted,
            images=images,
            min_output_tokens=request.min_output_tokens or max(1, cap // 4),
            idempotency=_idempotency(request),
        )

    def _expected(self, target: Target, request: CompletionRequest, counted: int, at: datetime) -> Decimal | None:
        rates = self._prices.rates(target.provider, target.model, at)
        if rates is None:
            return None
        tokens = self._estimator.corrected(target.provider, target.model, counted)
        output_tokens = request.max_output_tokens or EXPECTED_OUTPUT_TOKENS
        return round_usd(rates.input_cost(tokens) + rates.output_token_usd(tokens) * output_tokens)


def _template(request: CompletionRequest, plan: Plan, cap: int, deadline: float) -> ModelCall:
    return ModelCall(
        model=plan.targets[0].model,
        messages=request.messages,
        max_output_tokens=cap,
        deadline=deadline,
        tools=request.tools,
        tool_choice=request.tool_choice,
        response_format=request.response_format,
        reasoning_effort=request.reasoning_effort,
        temperature=request.temperature,
        top_p=request.top_p,
        stop=request.stop,
        seed=request.seed,
        unsupported=plan.unsupported,
    )


def _idempotency(request: CompletionRequest) -> IdempotencyKey | None:
    if request.idempotency_key is None:
        return None
    return IdempotencyKey(request.idempotency_key, hashlib.sha256(msgspec.json.encode(request)).digest())


def prompt_texts(request: CompletionRequest) -> Iterator[str]:
    """Everything of a call that a model reads as text."""
    for message in request.messages:
        yield from (part.text for part in message.parts if isinstance(part, Text))
        for call in message.tool_calls:
            yield call.name
            yield call.arguments
        if message.tool_result is not None:
            yield message.tool_result.content
        if message.reasoning is not None:
            yield msgspec.json.encode(message.reasoning).decode()
    if request.tools or request.response_format is not None:
        yield msgspec.json.encode((request.tools, request.response_format)).decode()


def count_images(request: CompletionRequest) -> int:
    return sum(isinstance(part, ImageUrl | InlineImage) for message in request.messages for part in message.parts)


class RunningCall:
    """What one admitted call has done so far; its attempts are priced as they come."""

    def __init__(self, call: PlannedCall, admitted: Admitted, ledger: Ledger, clock: Clock) -> None:
        self._call = call
        self._admitted = admitted
        self._ledger = ledger
        self._clock = clock
        self._first = True
        self._cap = admitted.output_cap_tokens
        self._attempts: list[Attempt] = []
        self._texts: list[str] = []
        self._tool_pieces: list[str] = []
        self._first_token_ms: float | None = None

    async def admit(self, target: Target) -> int | None:
        """The output cap of the next attempt: the admission's own for the first one, a top-up for every further one."""
        first, self._first = self._first, False
        if first and target == self._call.plan.targets[0]:
            return self._cap
        cap = await self._ledger.top_up(self._call.key, self._call.payer, self._call.estimate(target))
        if cap is not None:
            self._cap = cap
        return cap

    def observe(self, attempt: Attempt) -> None:
        if attempt.usage is None and self._was_perhaps_billed(attempt):
            attempt = replace(attempt, usage=self._estimated(attempt))
        self._attempts.append(self._call.priced(attempt))
        if attempt.usage is not None and attempt.usage.confirmed and not self._call.images:
            self._call.estimator.learn(attempt.provider, attempt.model, self._call.counted_tokens, attempt.usage.input_tokens)

    def streamed(self, part: TextDelta | ToolCallDelta) -> None:
        """Something of the answer has come."""
        if self._first_token_ms is None:
            self._first_token_ms = (self._clock.monotonic() - self._call.started) * 1000
        if isinstance(part, TextDelta):
            self._texts.append(part.text)
        else:
            self._tool_pieces += (part.name or "", part.arguments_delta)

    @property
    def billed_attempts(self) -> tuple[Attempt, ...]:
        """Those that reached a provider: the ledger has a row for each."""
        return tuple(attempt for attempt in self._attempts if attempt.outcome not in _NEVER_SENT)

    def finished(self, routed: Routed) -> Completion:
        answer = routed.answer
        return replace(
            self._completion(CompletionStatus.FINISHED),
            text=answer.text,
            reasoning=answer.reasoning,
            tool_calls=answer.tool_calls,
            finish_reason=answer.finish_reason,
            notes=answer.notes,
            provider=routed.target.provider,
            model=routed.target.model,
        )

    def failed(self, problem: object) -> Completion:
        """Whatever ended it: something was sent before, so it is the failure of every target that could be tried."""
        if isinstance(problem, ProvidersFailed):
            problem = replace(problem, attempts=tuple(self._attempts))
        else:
            code = problem.code if isinstance(problem, RateLimited) else ProblemCode.PROVIDER_ERROR
            problem = ProvidersFailed("No further target could be tried.", tuple(self._attempts), retryable=True, code=code)
        return replace(self._completion(CompletionStatus.FAILED), text="".join(self._texts) or None, problem=problem)

    def cancelled(self) -> Completion:
        """What had come by then, which stays charged."""
        completion = self._completion(CompletionStatus.CANCELLED)
        return replace(completion, text="".join(self._texts) or None, finish_reason=FinishReason.CANCELLED)

    def unfinished(self) -> Completion:
        completion = self._completion(CompletionStatus.RUNNING)
        return replace(completion, latency_ms=None, overhead_ms=None, finished_at=None)

    def _was_perhaps_billed(self, attempt: Attempt) -> bool:
        """A provider bills what it made, also for a caller that left; only one target ever shows anything."""
        if attempt.outcome is AttemptOutcome.SUCCEEDED or attempt.outcome in _NEVER_SENT:
            return False
        return attempt.outcome is AttemptOutcome.CANCELLED or self._first_token_ms is not None

    def _estimated(self, attempt: Attempt) -> TokenUsage:
        """The input as it was held for, and the output that has come."""
        call, target = self._call, Target(attempt.provider, attempt.model)
        made = call.estimator.count_now(("".join(self._texts), "".join(self._tool_pieces)))
        output = min(self._cap, call.estimator.corrected(target.provider, target.model, made))
        return TokenUsage(uncached_input_tokens=call.input_tokens(target), visible_output_tokens=output, confirmed=False)

    def _completion(self, status: CompletionStatus) -> Completion:
        call, now = self._call, self._clock.monotonic()
        latency_ms = (now - call.started) * 1000
        usages = tuple(attempt.usage for attempt in self._attempts if attempt.usage is not None)
        return Completion(
            key=call.key,
            status=status,
            tenant=call.payer.tenant,
            created_at=self._admitted.admitted_at,
            requested_model=call.request.model,
            route=call.plan.route,
            output_cap_tokens=self._cap,
            capped_by_budget=self._cap < call.template.max_output_tokens,
            usage=reduce(add, usages) if usages else None,
            cost_usd=total_cost(self._attempts),
            attempts=tuple(self._attempts),
            latency_ms=latency_ms,
            first_token_ms=self._first_token_ms,
            overhead_ms=latency_ms - sum(attempt.latency_ms for attempt in self._attempts),
            agent=call.payer.agent,
            labels=call.payer.labels,
            finished_at=self._clock.now(),
        )


def total_cost(attempts: list[Attempt]) -> Decimal | None:
    """All attempts together; None where one was used whose price is unknown."""
    used = [attempt for attempt in attempts if attempt.usage is not None]
    if any(attempt.cost_usd is None for attempt in used):
        return None
    return sum((attempt.cost_usd for attempt in used if attempt.cost_usd is not None), ZERO)
