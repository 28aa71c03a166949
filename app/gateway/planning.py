"""A paid call before it is admitted: its route, its prices and its worst-case cost. Nothing is held or sent here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from operator import itemgetter
from typing import Generic, Protocol, TypeAlias, TypeVar
from uuid import UUID

from app.access.principal import Principal
from app.access.tenancy import agent_for
from app.costs.estimate import Estimator
from app.costs.holds import Estimate, IdempotencyKey, Payer
from app.costs.prices import PriceBook, Rates
from app.domain.attempts import Attempt
from app.domain.ids import new_uuid
from app.domain.money import ZERO
from app.domain.usage import Label, Operation, ServiceTier, TokenUsage
from app.gateway.completions import (
    CompletionRequest,
    prompt_texts,
)
from app.gateway.embeddings import EmbeddingsRequest
from app.gateway.media import Media, find_media, find_private_url
from app.gateway.prompt_cache_affinity import Prompt, PromptCacheAffinity
from app.gateway.statements import PassageReference
from app.llm.fleet import Fleet
from app.llm.messages import CacheTtl, EmbedCall, ModelCall
from app.llm.output_limits import OutputLimits
from app.llm.router import Configured, Plan
from app.llm.routing import CallNeeds, RouteCandidate, RoutingPreference, Target
from app.runtime.clock import Clock
from app.runtime.offload import LARGE_BYTES, Offload
from app.runtime.request_hash import digest
from app.settings import EMBEDDINGS_ROUTE
from app.web.capacity import Holder

EXPECTED_OUTPUT_TOKENS = 500
"""The output cap that is assumed when targets are ordered by cost and the call has no cap."""
LARGE_PROMPT_TOKENS = 20_000
"""Longer prompts are hashed in a thread, so that the event loop stays free."""
_BYTES_A_TOKEN = 4

Template = TypeVar("Template", ModelCall, EmbedCall)


class CallRequest(Protocol):
    """What every paid request has."""

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
class AskedCall:
    """A call before it is planned, which is all that an answer from the cache needs. `started` is in the Clock's monotonic
    seconds."""

    key: UUID
    payer: Payer
    requested_model: str | None
    started: float
    started_at: datetime
    operation: Operation = Operation.COMPLETION
    passages: tuple[PassageReference, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedCall(Generic[Template]):
    """`key_id` is the API key of the caller. `started` is in the Clock's monotonic seconds. The prices are those of the start;
    the settlement uses them too. A call for embeddings has an output cap of 0, because vectors are no output tokens.
    `max_output_tokens` is the requested number; each target gets at most what it can write.
    `cache_key` is the public name under which its answer is stored."""

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
    notes: tuple[str, ...] = ()
    media: Media = Media()
    max_output_tokens: int = 0
    min_output_tokens: int = 0
    cache_key: str | None = None
    service_tier: ServiceTier = ServiceTier.STANDARD
    caches_for_an_hour: bool = False
    passages: tuple[PassageReference, ...] = ()

    @property
    def asked(self) -> AskedCall:
        return AskedCall(self.key, self.payer, self.requested_model, self.started, self.started_at, self.operation, self.passages)

    def input_tokens(self, target: Target) -> int:
        return self.estimator.corrected(target.provider, target.model, self.counted_tokens) + self.media.tokens

    def output_cap(self, target: Target) -> int:
        return min(self.max_output_tokens, self.output_limits.of(target))

    def estimate(self, target: Target) -> Estimate:
        input_tokens = self.input_tokens(target)
        worst = self.prices.worst_case(target.provider, target.model, self.started_at, self.service_tier)
        return Estimate(
            provider=target.provider,
            model=target.model,
            input_tokens=input_tokens,
            max_output_tokens=self.output_cap(target),
            min_output_tokens=self.min_output_tokens,
            input_usd=None if worst is None else worst.input_cost(input_tokens, for_an_hour=self.caches_for_an_hour),
            output_token_usd=None if worst is None else worst.output_token_usd(input_tokens),
        )

    def priced(self, attempt: Attempt) -> Attempt:
        """An estimate does not show which tier served the call. The more expensive one of the usual and the requested tier is
        charged."""
        usage = attempt.usage
        if usage is None:
            return attempt
        tiers = (usage.service_tier,) if usage.confirmed else (usage.service_tier, self.service_tier)
        found = [
            (rates.cost(usage), tier)
            for tier in tiers
            if (rates := self.prices.rates(attempt.provider, attempt.model, self.started_at, tier)) is not None
        ]
        if not found:
            return attempt
        cost_usd, tier = max(found, key=itemgetter(0))
        return replace(attempt, cost_usd=cost_usd, usage=replace(usage, service_tier=tier))


def free_estimate(target: Target) -> Estimate:
    """The estimate of a call that asks no provider."""
    return Estimate(target.provider, target.model, 0, 0, 0, input_usd=ZERO, output_token_usd=ZERO)


class CallPlanner:
    def __init__(
        self,
        clock: Clock,
        fleet: Fleet,
        prices: PriceBook,
        estimator: Estimator,
        timeouts: Mapping[str, timedelta],
        *,
        offload: Offload,
        output_limits: OutputLimits,
    ) -> None:
        """`timeouts` holds each provider's total timeout by name. A call without a timeout gets the one of its first target."""
        self._clock = clock
        self._fleet = fleet
        self._prices = prices
        self._estimator = estimator
        self._timeouts = timeouts
        self._offload = offload
        self._output_limits = output_limits
        self._caches = PromptCacheAffinity(clock)

    def configured(self, model: str | None) -> Configured:
        """Returns the route or target that a call asks for. Raises Refused(InvalidInput) if there is none of this name."""
        return self._fleet.router.configured(model)

    async def hash_request(self, request: CompletionRequest, work: Callable[[], bytes]) -> bytes:
        """Runs `work`, which hashes the request, where it does not block the event loop."""
        characters, images = sum(map(len, prompt_texts(request))), find_media(request.messages).count
        if _is_large(characters // _BYTES_A_TOKEN, images):
            return await self._offload.run_in_thread(_size(characters // _BYTES_A_TOKEN, images), work)
        return work()

    async def explain(self, request: CompletionRequest, principal: Principal) -> list[RouteCandidate]:
        """Returns every target of the call's route with its place and the reason for it. Nothing is held or sent. Raises the
        same errors as `plan`."""
        prompt = Prompt(self._caches, _payer(request, principal).tenant, request)
        counted = await self._estimator.count(prompt_texts(request))
        media = find_media(request.messages)
        if _is_large(counted, media.count):
            await self._offload.run_in_thread(_size(counted, media.count), prompt.read)
        needs = CallNeeds(input_tokens=counted + media.tokens, private_url=find_private_url(request.messages))
        estimate = self._expectation(request, prompt, counted, self._clock.now())
        return self._fleet.router.explain(request.model, request.routing, needs, estimate)

    def ask(self, request: CallRequest, principal: Principal) -> AskedCall:
        """Raises Forbidden if the agent is not the key's own."""
        now = self._clock.now()
        return AskedCall(new_uuid(now), _payer(request, principal), request.model, self._clock.monotonic(), now)

    def ask_completion(self, request: CompletionRequest, principal: Principal) -> AskedCall:
        """Raises as `ask` does."""
        return replace(self.ask(request, principal), operation=request.operation, passages=request.passages)

    async def plan(
        self, request: CompletionRequest, principal: Principal, *, streamed: bool = False, asked_call: AskedCall | None = None
    ) -> PlannedCall[ModelCall]:
        """Plans the call that has begun with `asked_call`, or one that begins now. Raises Refused(InvalidInput) if no configured
        target can serve the call, Forbidden if the agent is not the key's own."""
        call = asked_call or self.ask_completion(request, principal)
        payer, started, started_at = call.payer, call.started, call.started_at
        counted = await self._estimator.count(prompt_texts(request))
        media = find_media(request.messages)
        needs = CallNeeds(input_tokens=counted + media.tokens, streamed=streamed, private_url=find_private_url(request.messages))
        prompt = Prompt(self._caches, payer.tenant, request)
        if _is_large(counted, media.count):
            await self._offload.run_in_thread(_size(counted, media.count), prompt.read)
        estimate = self._expectation(request, prompt, counted, started_at)
        plan = self._fleet.router.plan(request.model, request.routing, needs, estimate)
        asked = request.max_output_tokens or plan.default_max_output_tokens
        cap = min(asked, self._output_limits.of(plan.targets[0]))
        return PlannedCall(
            key=call.key,
            key_id=principal.key_id,
            operation=call.operation,
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
            idempotency=await self._idempotency(request.as_asked(), payer, counted, media.count),
            prompt=prompt,
            media=media,
            max_output_tokens=asked,
            min_output_tokens=request.min_output_tokens or max(1, cap // 4),
            service_tier=_service_tier(request),
            caches_for_an_hour=_caches_for_an_hour(request),
            passages=call.passages,
        )

    async def plan_embeddings(
        self, request: EmbeddingsRequest, principal: Principal, operation: Operation = Operation.EMBEDDING
    ) -> PlannedCall[EmbedCall]:
        """Plans as `plan` does. A call that names no model takes the route `embeddings`. The ledger has it as `operation`."""
        call = self.ask(request, principal)
        payer, started, started_at = call.payer, call.started, call.started_at
        counted = await self._estimator.count(request.texts)
        plan = self._fleet.router.plan(
            request.model or EMBEDDINGS_ROUTE,
            request.routing,
            CallNeeds(input_tokens=counted, operation=Operation.EMBEDDING),
            lambda target: self._expected(target, counted, 0, 0, self._prices.rates(target.provider, target.model, started_at)),
        )
        deadline = self._deadline(request, plan, started)
        return PlannedCall(
            key=call.key,
            key_id=principal.key_id,
            operation=operation,
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
        """The hash includes the agent that pays, so one agent cannot join the call of another."""
        if request.idempotency_key is None:
            return None
        work = partial(digest, (request, payer.agent))
        hashed = await self._offload.run_in_thread(_size(tokens, images), work) if _is_large(tokens, images) else work()
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
            rates = self._prices.rates(target.provider, target.model, at, _service_tier(request))
            return self._expected(target, counted, prompt.cached_at(target), output_tokens, rates)

        return estimate

    def _expected(self, target: Target, counted: int, cached: int, output_tokens: int, rates: Rates | None) -> Decimal | None:
        if rates is None:
            return None
        tokens = self._estimator.corrected(target.provider, target.model, counted)
        cached = min(cached, tokens)
        return rates.cost(TokenUsage(tokens - cached, cached, visible_output_tokens=output_tokens))


def _service_tier(request: CompletionRequest) -> ServiceTier:
    return ServiceTier.STANDARD if request.service_tier is None else ServiceTier(request.service_tier.value)


def _caches_for_an_hour(request: CompletionRequest) -> bool:
    marked = (tool.cache_ttl for tool in request.tools), (message.cache_ttl for message in request.messages)
    return CacheTtl.ONE_HOUR in {ttl for ttls in marked for ttl in ttls}


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
        parallel_tool_calls=request.parallel_tool_calls,
        service_tier=request.service_tier,
        provider_options=request.provider_options,
        unsupported=plan.unsupported,
        input_tokens=plan.needs.input_tokens,
        holder=_holder(payer),
        restart=request.restart,
        stream_reasoning=request.stream_reasoning,
    )


def _is_large(tokens: int, images: int) -> bool:
    return images > 0 or tokens > LARGE_PROMPT_TOKENS


def _size(tokens: int, images: int) -> int:
    """The approximate size in bytes. Any image counts as large."""
    return _BYTES_A_TOKEN * tokens + LARGE_BYTES * images


AnyCall: TypeAlias = PlannedCall[ModelCall] | PlannedCall[EmbedCall]
