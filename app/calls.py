"""One call on its way: planned before anything is held or sent, then followed from attempt to attempt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial, reduce
from operator import add
from typing import Generic, Protocol, TypeAlias, TypeVar
from uuid import UUID

from app.access.principal import Principal
from app.access.tenancy import agent_for
from app.aside import LARGE_BYTES, Aside
from app.attempts import Attempt, AttemptOutcome
from app.clock import Clock
from app.completions import Completion, CompletionRequest, CompletionStatus, count_images, find_private_image, prompt_texts
from app.costs.estimate import Estimator
from app.costs.holds import Admitted, Estimate, IdempotencyKey, Ledger, Payer
from app.costs.prices import PriceBook
from app.digests import digest
from app.embeddings import Embeddings, EmbeddingsOutcome, EmbeddingsRequest
from app.ids import new_uuid
from app.llm.fleet import Fleet
from app.llm.messages import EmbedCall, FinishReason, ModelCall, TextDelta, ToolCallDelta
from app.llm.output_limits import OutputLimits
from app.llm.router import Plan, Routed, Router
from app.llm.routing import CallNeeds, ProvidersFailed, RateLimited, RouteCandidate, RoutingPreference, Target
from app.money import ZERO
from app.problems import InvalidInput, ProblemCode
from app.prompt_caches import Prompt, PromptCaches
from app.settings import EMBEDDINGS_ROUTE
from app.usage import Label, Operation, TokenUsage
from app.web.load import Holder

_NEVER_SENT = frozenset({AttemptOutcome.SKIPPED_BUDGET, AttemptOutcome.SKIPPED_LIMIT, AttemptOutcome.SKIPPED_OPEN_CIRCUIT})
IMAGE_TOKENS = 1600
"""What the providers charge at most for one image at their usual size."""
EXPECTED_OUTPUT_TOKENS = 500
"""For the order of targets by cost, where a call has no cap of its own."""
LARGE_PROMPT_TOKENS = 20_000
"""From here on a prompt is hashed in a thread, so that others have their turn meanwhile."""
_BYTES_A_TOKEN = 4

Template = TypeVar("Template", ModelCall, EmbedCall)


class CallRequest(Protocol):
    """What every paid call is asked with."""

    @property
    def model(self) -> str | None: ...

    @property
    def routing(self) -> RoutingPreference: ...

    @property
    def agent(self) -> str | None: ...

    @property
    def labels(self) -> tuple[Label, ...]: ...

    @property
    def timeout(self) -> timedelta | None: ...

    @property
    def idempotency_key(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class PlannedCall(Generic[Template]):
    """`key_id` is the API key it was made with. `started` is in the Clock's monotonic seconds. Prices are those at the start,
    also for the settlement. Vectors are no output tokens: their call has a cap of 0. `max_output_tokens` is as asked; no target
    is asked for more than it can write."""

    key: UUID
    key_id: UUID
    operation: Operation
    requested_model: str | None
    payer: Payer
    plan: Plan
    template: Template
    started: float
    started_at: datetime
    prices: PriceBook
    estimator: Estimator
    output_limits: OutputLimits
    counted_tokens: int
    idempotency: IdempotencyKey | None
    prompt: Prompt | None = None
    images: int = 0
    max_output_tokens: int = 0
    min_output_tokens: int = 0

    def input_tokens(self, target: Target) -> int:
        return self.estimator.corrected(target.provider, target.model, self.counted_tokens) + IMAGE_TOKENS * self.images

    def output_cap(self, target: Target) -> int:
        return min(self.max_output_tokens, self.output_limits.of(target))

    def estimate(self, target: Target) -> Estimate:
        input_tokens = self.input_tokens(target)
        rates = self.prices.rates(target.provider, target.model, self.started_at)
        return Estimate(
            provider=target.provider,
            model=target.model,
            input_tokens=input_tokens,
            max_output_tokens=self.output_cap(target),
            min_output_tokens=self.min_output_tokens,
            input_usd=None if rates is None else rates.input_cost(input_tokens),
            output_token_usd=None if rates is None else rates.output_token_usd(input_tokens),
        )

    def priced(self, attempt: Attempt) -> Attempt:
        if attempt.usage is None:
            return attempt
        rates = self.prices.rates(attempt.provider, attempt.model, self.started_at, attempt.usage.service_tier)
        return attempt if rates is None else replace(attempt, cost_usd=rates.cost(attempt.usage))


class CallPlanner:
    def __init__(
        self,
        clock: Clock,
        fleet: Fleet,
        prices: PriceBook,
        estimator: Estimator,
        timeouts: Mapping[str, timedelta],
        *,
        aside: Aside,
        output_limits: OutputLimits,
    ) -> None:
        """`timeouts` are the providers' totals by name: the first target's holds for a call that brings none."""
        self._clock = clock
        self._fleet = fleet
        self._prices = prices
        self._estimator = estimator
        self._timeouts = timeouts
        self._aside = aside
        self._output_limits = output_limits
        self._caches = PromptCaches(clock)

    async def explain(self, request: CompletionRequest, principal: Principal) -> list[RouteCandidate]:
        """Every target of the call's route with its place and the reason for it; nothing is held or sent. Raises as `plan`."""
        prompt = Prompt(self._caches, _payer(request, principal).tenant, request)
        counted = await self._estimator.count(prompt_texts(request))
        images = count_images(request)
        if _is_large(counted, images):
            await self._aside.run(_size(counted, images), prompt.read)
        needs = CallNeeds(input_tokens=counted + IMAGE_TOKENS * images, private_image=find_private_image(request))
        estimate = self._expectation(request, prompt, counted, self._clock.now())
        return self._fleet.router.explain(request.model, request.routing, needs, estimate)

    async def plan(self, request: CompletionRequest, principal: Principal, *, streamed: bool = False) -> PlannedCall[ModelCall]:
        """Raises Refused(InvalidInput) where nothing configured can serve it, Forbidden for another agent than the key's."""
        started, started_at = self._clock.monotonic(), self._clock.now()
        payer = _payer(request, principal)
        counted = await self._estimator.count(prompt_texts(request))
        images = count_images(request)
        private_image = find_private_image(request)
        needs = CallNeeds(input_tokens=counted + IMAGE_TOKENS * images, streamed=streamed, private_image=private_image)
        prompt = Prompt(self._caches, payer.tenant, request)
        if _is_large(counted, images):
            await self._aside.run(_size(counted, images), prompt.read)
        estimate = self._expectation(request, prompt, counted, started_at)
        plan = self._fleet.router.plan(request.model, request.routing, needs, estimate)
        asked = request.max_output_tokens or plan.default_max_output_tokens
        cap = min(asked, self._output_limits.of(plan.targets[0]))
        return PlannedCall(
            key=new_uuid(started_at),
            key_id=principal.key_id,
            operation=Operation.COMPLETION,
            requested_model=request.model,
            payer=payer,
            plan=plan,
            template=_template(request, payer, plan, cap, self._deadline(request, plan, started)),
            started=started,
            started_at=started_at,
            prices=self._prices,
            estimator=self._estimator,
            output_limits=self._output_limits,
            counted_tokens=counted,
            idempotency=await self._idempotency(request, payer, counted, images),
            prompt=prompt,
            images=images,
            max_output_tokens=asked,
            min_output_tokens=request.min_output_tokens or max(1, cap // 4),
        )

    async def plan_embeddings(self, request: EmbeddingsRequest, principal: Principal) -> PlannedCall[EmbedCall]:
        """As `plan`; a call that names no model takes the route `embeddings`."""
        started, started_at = self._clock.monotonic(), self._clock.now()
        payer = _payer(request, principal)
        counted = await self._estimator.count(request.texts)
        plan = self._fleet.router.plan(
            request.model or EMBEDDINGS_ROUTE,
            request.routing,
            CallNeeds(input_tokens=counted, operation=Operation.EMBEDDING),
            lambda target: self._expected(target, counted, 0, 0, started_at),
        )
        deadline = self._deadline(request, plan, started)
        return PlannedCall(
            key=new_uuid(started_at),
            key_id=principal.key_id,
            operation=Operation.EMBEDDING,
            requested_model=request.model,
            payer=payer,
            plan=plan,
            template=EmbedCall(plan.targets[0].model, request.texts, deadline, request.dimensions, _holder(payer)),
            started=started,
            started_at=started_at,
            prices=self._prices,
            estimator=self._estimator,
            output_limits=self._output_limits,
            counted_tokens=counted,
            idempotency=await self._idempotency(request, payer, counted),
        )

    async def _idempotency(self, request: CallRequest, payer: Payer, tokens: int, images: int = 0) -> IdempotencyKey | None:
        """The hash holds the agent that pays: the key of another agent's call is not this one's to join."""
        if request.idempotency_key is None:
            return None
        work = partial(digest, (request, payer.agent))
        hashed = await self._aside.run(_size(tokens, images), work) if _is_large(tokens, images) else work()
        return IdempotencyKey(request.idempotency_key, hashed)

    def _deadline(self, request: CallRequest, plan: Plan, started: float) -> float:
        timeout = request.timeout or self._timeouts[plan.targets[0].provider]
        return started + timeout.total_seconds()

    def _expectation(
        self, request: CompletionRequest, prompt: Prompt, counted: int, at: datetime
    ) -> Callable[[Target], Decimal | None]:
        asked = request.max_output_tokens or EXPECTED_OUTPUT_TOKENS

        def estimate(target: Target) -> Decimal | None:
            output_tokens = min(asked, self._output_limits.of(target))
            return self._expected(target, counted, prompt.cached_at(target), output_tokens, at)

        return estimate

    def _expected(self, target: Target, counted: int, cached: int, output_tokens: int, at: datetime) -> Decimal | None:
        rates = self._prices.rates(target.provider, target.model, at)
        if rates is None:
            return None
        tokens = self._estimator.corrected(target.provider, target.model, counted)
        cached = min(cached, tokens)
        return rates.cost(TokenUsage(tokens - cached, cached, visible_output_tokens=output_tokens))


def _payer(request: CallRequest, principal: Principal) -> Payer:
    return Payer(principal.tenant, principal.key_name, agent_for(principal, request.agent), request.labels)


def _holder(payer: Payer) -> Holder:
    return Holder(payer.key_name, payer.tenant)


def _template(request: CompletionRequest, payer: Payer, plan: Plan, cap: int, deadline: float) -> ModelCall:
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
        input_tokens=plan.needs.input_tokens,
        holder=_holder(payer),
    )


def _is_large(tokens: int, images: int) -> bool:
    return images > 0 or tokens > LARGE_PROMPT_TOKENS


def _size(tokens: int, images: int) -> int:
    """In bytes, about: an image counts as large."""
    return _BYTES_A_TOKEN * tokens + LARGE_BYTES * images


class RunningCall(Generic[Template]):
    """What one admitted call has done so far; its attempts are priced as they come."""

    def __init__(self, call: PlannedCall[Template], admitted: Admitted, ledger: Ledger, clock: Clock) -> None:
        self.call: PlannedCall[Template] = call
        self._admitted = admitted
        self._ledger = ledger
        self._clock = clock
        self._first = True
        self._cap = admitted.output_cap_tokens
        self._cap_without_budgets = call.output_cap(call.plan.targets[0])
        self.attempts: list[Attempt] = []

    async def admit(self, target: Target) -> int | None:
        """The output cap of the next attempt: the admission's own for the first one, a top-up for every further one."""
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
        if attempt.usage is not None and attempt.usage.confirmed:
            self._learn(attempt, attempt.usage)

    def _learn(self, attempt: Attempt, usage: TokenUsage) -> None:
        call = self.call
        if not call.images:
            call.estimator.learn(attempt.provider, attempt.model, call.counted_tokens, usage.input_tokens)
        if call.prompt is not None and len(call.plan.targets) > 1:
            call.prompt.served(Target(attempt.provider, attempt.model), usage)

    @property
    def billed_attempts(self) -> tuple[Attempt, ...]:
        """Those that reached a provider: the ledger has a row for each."""
        return tuple(attempt for attempt in self.attempts if attempt.outcome not in _NEVER_SENT)

    @property
    def usage(self) -> TokenUsage | None:
        """All attempts together; None where none is known."""
        usages = tuple(attempt.usage for attempt in self.attempts if attempt.usage is not None)
        return reduce(add, usages) if usages else None

    @property
    def cost_usd(self) -> Decimal | None:
        """All attempts together; None where one was used whose price is unknown."""
        costs = [attempt.cost_usd for attempt in self.attempts if attempt.usage is not None]
        known = [cost for cost in costs if cost is not None]
        return sum(known, ZERO) if len(known) == len(costs) else None

    def failure(self, problem: object) -> ProvidersFailed:
        """Whatever ended it: something was sent before, so it is the failure of every target that could be tried."""
        if isinstance(problem, ProvidersFailed):
            return replace(problem, attempts=tuple(self.attempts))
        code = problem.code if isinstance(problem, RateLimited) else ProblemCode.PROVIDER_ERROR
        return ProvidersFailed("No further target could be tried.", tuple(self.attempts), retryable=True, code=code)

    def _written(self) -> tuple[str, ...]:
        """What has come of an answer that is not whole."""
        return ()

    def _was_perhaps_billed(self, attempt: Attempt) -> bool:
        """A provider bills what it made, also for a caller that left; only one target ever shows anything."""
        if attempt.outcome is AttemptOutcome.SUCCEEDED or attempt.outcome in _NEVER_SENT:
            return False
        return attempt.outcome is AttemptOutcome.CANCELLED or bool(self._written())

    def _estimated(self, attempt: Attempt) -> TokenUsage:
        """The input as it was held for, and the output that has come."""
        estimator, target = self.call.estimator, Target(attempt.provider, attempt.model)
        made = estimator.count_now(self._written())
        output = min(self._cap, estimator.corrected(target.provider, target.model, made))
        return TokenUsage(uncached_input_tokens=self.call.input_tokens(target), visible_output_tokens=output, confirmed=False)


class RunningCompletion(RunningCall[ModelCall]):
    def __init__(self, call: PlannedCall[ModelCall], admitted: Admitted, ledger: Ledger, clock: Clock) -> None:
        super().__init__(call, admitted, ledger, clock)
        self._texts: list[str] = []
        self._tool_pieces: list[str] = []
        self._first_token_ms: float | None = None

    async def answer(self, router: Router) -> Completion:
        call = self.call
        routed = await router.complete(call.plan, call.template, self.admit, self.observe, tenant=call.payer.tenant)
        return self.finished(routed)

    def streamed(self, part: TextDelta | ToolCallDelta) -> None:
        """Something of the answer has come."""
        if self._first_token_ms is None:
            self._first_token_ms = (self._clock.monotonic() - self.call.started) * 1000
        if isinstance(part, TextDelta):
            self._texts.append(part.text)
        else:
            self._tool_pieces += (part.name or "", part.arguments_delta)

    def finished(self, routed: Routed) -> Completion:
        answer, call = routed.answer, self.call
        notes = answer.notes
        if call.max_output_tokens > (cap := call.output_cap(routed.target)):
            lowered = f"from {call.max_output_tokens} to {cap}, the most that {routed.target} is asked for"
            notes = (f"The output cap was lowered {lowered}.", *notes)
        return replace(
            self._completion(CompletionStatus.FINISHED),
            text=answer.text,
            reasoning=answer.reasoning,
            tool_calls=answer.tool_calls,
            finish_reason=answer.finish_reason,
            notes=notes,
            provider=routed.target.provider,
            model=routed.target.model,
        )

    def failed(self, problem: object) -> Completion:
        """Where nothing was sent, the problem is what was in the way."""
        if self.billed_attempts or not isinstance(problem, InvalidInput | RateLimited):
            problem = self.failure(problem)
        completion = self._completion(CompletionStatus.FAILED)
        return replace(completion, text="".join(self._texts) or None, problem=problem)

    def cancelled(self, reason: str | None = None) -> Completion:
        """What had come by then, which stays charged."""
        completion = self._completion(CompletionStatus.CANCELLED)
        notes = () if reason is None else (reason,)
        return replace(completion, text="".join(self._texts) or None, finish_reason=FinishReason.CANCELLED, notes=notes)

    def unfinished(self) -> Completion:
        completion = self._completion(CompletionStatus.RUNNING)
        return replace(completion, latency_ms=None, overhead_ms=None, finished_at=None)

    def _written(self) -> tuple[str, ...]:
        return () if self._first_token_ms is None else ("".join(self._texts), "".join(self._tool_pieces))

    def _completion(self, status: CompletionStatus) -> Completion:
        call, now = self.call, self._clock.monotonic()
        latency_ms = (now - call.started) * 1000
        return Completion(
            key=call.key,
            status=status,
            tenant=call.payer.tenant,
            created_at=self._admitted.admitted_at,
            requested_model=call.requested_model,
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
        )


class RunningEmbeddings(RunningCall[EmbedCall]):
    async def answer(self, router: Router) -> EmbeddingsOutcome:
        call = self.call
        routed = await router.embed(call.plan, call.template, self.admit, self.observe, tenant=call.payer.tenant)
        made, target = routed.embedded, routed.target
        return EmbeddingsOutcome(
            call.key,
            call.payer.tenant,
            CompletionStatus.FINISHED,
            Embeddings(
                provider=target.provider,
                model=target.model,
                dimensions=len(made.vectors[0]),
                vectors=made.vectors,
                usage=self.usage or made.usage,
                cost_usd=self.cost_usd,
            ),
        )

    def failed(self, problem: object) -> EmbeddingsOutcome:
        return self._without_vectors(CompletionStatus.FAILED, self.failure(problem))

    def cancelled(self, reason: str | None = None) -> EmbeddingsOutcome:
        text = reason or "The call was cancelled."
        problem = ProvidersFailed(text, tuple(self.attempts), retryable=reason is None, code=ProblemCode.CANCELLED)
        return self._without_vectors(CompletionStatus.CANCELLED, problem)

    def _without_vectors(self, status: CompletionStatus, problem: ProvidersFailed) -> EmbeddingsOutcome:
        return EmbeddingsOutcome(self.call.key, self.call.payer.tenant, status, problem=problem)


AnyCall: TypeAlias = PlannedCall[ModelCall] | PlannedCall[EmbedCall]
