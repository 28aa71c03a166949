"""From a route or a named model to an answer: targets are ordered by a strategy and tried one after the other until one
answers.

The report names the target that answered, never one that failed. Nothing of a stream is shown before its first token. If a
target fails before that, the next one is tried and no caller sees it. After that, what was shown is not a whole answer. The
failure is final, unless the call asks that the answer begins anew.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Protocol, TypeAlias

from app.domain.attempts import Attempt
from app.domain.errors import ProviderError, Refused
from app.domain.problems import InvalidInput, ProblemCode
from app.domain.usage import Operation
from app.llm.messages import Answer, AnswerEnd, ContentDelta, EmbedCall, Embedded, ModelCall, UnsupportedPolicy
from app.llm.resilience.failover import Failover
from app.llm.resilience.guarded import CallContext, Guarded, TargetSkipped
from app.llm.routing import (
    CallNeeds,
    Restarted,
    Route,
    RouteCandidate,
    RoutingPreference,
    RoutingStrategy,
    Target,
    parse_target,
)
from app.llm.strategies import Latencies, Ordering
from app.runtime.clock import Clock

DEFAULT_ROUTE = "default"
_DEFAULT_OUTPUT_TOKENS = 4096
_PRIVATE_URL = "The address is private, local or ambiguous, and no provider of the route may get images at such addresses."

Admit: TypeAlias = Callable[[Target], Awaitable[int | None]]
Observe: TypeAlias = Callable[[Attempt], None]
EstimateCost: TypeAlias = Callable[[Target], Decimal | None]


@dataclass(frozen=True, slots=True)
class Plan:
    """The targets that a call may try, in order. `route` is None if the call named its target."""

    targets: tuple[Target, ...]
    route: str | None
    default_max_output_tokens: int
    unsupported: UnsupportedPolicy
    needs: CallNeeds


@dataclass(frozen=True, slots=True)
class Configured:
    """A route as configured, or the one target that a call named; `route` is then None."""

    targets: tuple[Target, ...]
    route: str | None
    default_max_output_tokens: int


@dataclass(frozen=True, slots=True)
class Routed:
    answer: Answer
    target: Target


@dataclass(frozen=True, slots=True)
class RoutedVectors:
    embedded: Embedded
    target: Target


@dataclass(frozen=True, slots=True)
class Rerouted:
    "A target failed before any of its content was shown. The next target is being tried."

    attempt: Attempt


RoutedPart: TypeAlias = ContentDelta | Rerouted | Restarted | Routed


class Targets(Protocol):
    """All targets that calls can be routed to."""

    def knows_provider(self, name: str) -> bool: ...

    def find(self, target: Target) -> Guarded | None:
        """None if the provider is not configured or does not offer the model."""
        ...

    def context_tokens(self, target: Target) -> int | None: ...

    def can_embed(self, target: Target) -> bool: ...

    def may_fetch_privately(self, target: Target) -> bool:
        """Whether the target's provider may get images at addresses that are not public."""
        ...


class Router:
    def __init__(
        self, routes: Mapping[str, Route], targets: Targets, ordering: Ordering, latencies: Latencies, clock: Clock
    ) -> None:
        self._routes = routes
        self._parsed = {name: [t for text in route.targets if (t := parse_target(text))] for name, route in routes.items()}
        self._targets = targets
        self._ordering = ordering
        self._latencies = latencies
        self._clock = clock

    def plan(self, model: str | None, preference: RoutingPreference, needs: CallNeeds, estimate: EstimateCost) -> Plan:
        """Returns the targets to try, in order. Raises Refused(InvalidInput) if there is none."""
        route, candidates = self._candidates(model)
        self._check_names(preference)
        allowed = [target for target in candidates if self._objection(target, preference, needs) is None]
        if not allowed:
            if needs.private_url is not None and self._is_route(candidates, preference, needs):
                raise Refused(InvalidInput(_PRIVATE_URL, needs.private_url))
            path = "routing" if preference.only or preference.avoid else "model"
            raise Refused(InvalidInput("No target of the route can serve this call.", (path,), ProblemCode.NO_ROUTE))
        ordered = self._order(route, allowed, preference, needs, estimate)
        return self._plan(route, ordered if preference.fallback else ordered[:1], needs)

    def configured(self, model: str | None) -> Configured:
        """Returns what `model` stands for, whatever can serve a call now. Raises Refused(InvalidInput) if there is no such route
        or target."""
        route, targets = self._candidates(model)
        return Configured(tuple(targets), None if route is None else route.name, self._default_cap(route))

    def explain(
        self, model: str | None, preference: RoutingPreference, needs: CallNeeds, estimate: EstimateCost
    ) -> list[RouteCandidate]:
        """Returns every target of the route with its place and the reason for it. Nothing is sent, and no round-robin turn is
        used."""
        route, candidates = self._candidates(model)
        self._check_names(preference)
        objections = {target: self._objection(target, preference, needs) for target in candidates}
        allowed = [target for target in candidates if objections[target] is None]
        ordered = self._order(route, allowed, preference, needs, estimate, peek=True)
        found = []
        for place, target in enumerate(ordered):
            problem = "fallback is off" if place and not preference.fallback else self._trouble(target, needs)
            reason = problem or f"number {place + 1} by {self._strategy(route, preference).value}"
            found.append(self._candidate(target, reason, needs, estimate, eligible=problem is None))
        for target, objection in objections.items():
            if objection is not None:
                found.append(self._candidate(target, objection, needs, estimate, eligible=False))
        return found

    async def route_completion(self, plan: Plan, call: ModelCall, admit: Admit, observe: Observe, *, tenant: str) -> Routed:
        """Returns the first whole answer. `call` is a template: model and output cap are set for every try. `admit` is asked
        before every try and returns its output cap, or None to skip the target. `observe` gets every attempt in order. Raises
        Refused(ProvidersFailed | RateLimited | InvalidInput); InvalidInput if the call cannot be expressed for the first
        target."""
        failover = self._failover(plan, call.max_output_tokens, call.deadline, CallContext(tenant, 0, admit, observe))
        while (guarded := failover.next()) is not None:
            try:
                return Routed(await guarded.complete(call, failover.call_context), guarded.target)
            except (ProviderError, TargetSkipped, Refused) as error:
                failover.failed(guarded, error)
        raise failover.refusal()

    async def route_embedding(self, plan: Plan, call: EmbedCall, admit: Admit, observe: Observe, *, tenant: str) -> RoutedVectors:
        failover = self._failover(plan, 0, call.deadline, CallContext(tenant, 0, admit, observe))
        while (guarded := failover.next()) is not None:
            try:
                return RoutedVectors(await guarded.embed(call, failover.call_context), guarded.target)
            except (ProviderError, TargetSkipped, Refused) as error:
                failover.failed(guarded, error)
        raise failover.refusal()

    async def route_stream(
        self, plan: Plan, call: ModelCall, admit: Admit, observe: Observe, *, tenant: str
    ) -> AsyncGenerator[RoutedPart, None]:
        """Yields the deltas of the target that answers, a Rerouted for every target that failed before it showed anything, and
        Routed as the last part. With `call.restart` a Restarted comes before the first part that follows a broken stream. Raises
        the same errors as `route_completion`, also if content was already shown."""
        failover = self._failover(plan, call.max_output_tokens, call.deadline, CallContext(tenant, 0, admit, observe))
        context, reported = failover.call_context, 0
        while (guarded := failover.next()) is not None:
            for attempt in context.attempts[reported:]:
                yield Rerouted(attempt)
            reported = len(context.attempts)
            parts = guarded.stream(call, context)
            try:
                async for part in parts:
                    if (broken := context.take_broken()) is not None:
                        yield broken
                    if isinstance(part, AnswerEnd):
                        yield Routed(part.answer, guarded.target)
                        return
                    yield part
            except (ProviderError, TargetSkipped, Refused) as error:
                failover.failed(guarded, error)
                if context.broken is not None and not call.restart:
                    raise failover.refusal() from error
                reported = max(reported, len(context.attempts) - (0 if context.has_just_broken else 1))
            finally:
                await parts.aclose()
        raise failover.refusal()

    def _failover(self, plan: Plan, output_tokens: int, deadline: float, call_context: CallContext) -> Failover:
        call_context.input_tokens = plan.needs.input_tokens
        found = [guarded for target in plan.targets if (guarded := self._targets.find(target)) is not None]
        return Failover(
            found,
            call_context,
            output_tokens,
            deadline=deadline,
            clock=self._clock,
            context_tokens=self._targets.context_tokens,
        )

    def _plan(self, route: Route | None, targets: Sequence[Target], needs: CallNeeds) -> Plan:
        basis = route or self._routes.get(DEFAULT_ROUTE)
        unsupported = UnsupportedPolicy.DROP if basis is None else basis.unsupported
        return Plan(tuple(targets), None if route is None else route.name, self._default_cap(route), unsupported, needs)

    def _default_cap(self, route: Route | None) -> int:
        basis = route or self._routes.get(DEFAULT_ROUTE)
        return _DEFAULT_OUTPUT_TOKENS if basis is None else basis.default_max_output_tokens

    def _candidates(self, model: str | None) -> tuple[Route | None, list[Target]]:
        """Returns the requested route and its targets, or None and the one target that was named."""
        name = DEFAULT_ROUTE if model is None else model
        route = self._routes.get(name)
        if route is not None:
            return route, self._parsed[name]
        target = parse_target(name)
        if target is None:
            raise _no_route(f"There is no route {_short(name)}. A model is written provider/model.")
        if not self._targets.knows_provider(target.provider):
            raise _no_route(f"There is no provider {_short(target.provider)}.")
        if self._targets.find(target) is None:
            raise _no_route(f"{target.provider} does not offer the model {_short(target.model)}.")
        return None, [target]

    def _check_names(self, preference: RoutingPreference) -> None:
        for place, names in (("only", preference.only), ("avoid", preference.avoid)):
            for name in names:
                if not self._targets.knows_provider(name.partition("/")[0]):
                    raise Refused(InvalidInput(f"There is no provider or target {_short(name)}.", ("routing", place)))

    def _objection(self, target: Target, preference: RoutingPreference, needs: CallNeeds) -> str | None:
        names = {target.provider, str(target)}
        if preference.only and names.isdisjoint(preference.only):
            return "not in `only`"
        if not names.isdisjoint(preference.avoid):
            return "in `avoid`"
        if self._targets.find(target) is None:
            return "the provider is not enabled"
        if needs.operation is Operation.EMBEDDING and not self._targets.can_embed(target):
            return "the provider has no embeddings"
        if needs.private_url is not None and not self._targets.may_fetch_privately(target):
            return "the provider is not given images at private addresses"
        return None

    def _is_route(self, candidates: Sequence[Target], preference: RoutingPreference, needs: CallNeeds) -> bool:
        """Whether there would be a target without the image."""
        without = replace(needs, private_url=None)
        return any(self._objection(target, preference, without) is None for target in candidates)

    def _strategy(self, route: Route | None, preference: RoutingPreference) -> RoutingStrategy:
        return preference.strategy or (RoutingStrategy.PRIORITY if route is None else route.strategy)

    def _order(
        self,
        route: Route | None,
        allowed: list[Target],
        preference: RoutingPreference,
        needs: CallNeeds,
        estimate: EstimateCost,
        *,
        peek: bool = False,
    ) -> list[Target]:
        """Orders by the strategy. Targets whose context window seems too small for the estimated input come last."""
        if len(allowed) < 2:
            return allowed
        ordered = self._ordering.order(
            self._strategy(route, preference),
            allowed,
            route=None if route is None else route.name,
            streamed=needs.streamed,
            estimate=estimate,
            peek=peek,
        )
        ordered.sort(key=lambda target: self._is_too_small(target, needs))
        return ordered

    def _is_too_small(self, target: Target, needs: CallNeeds) -> bool:
        window = self._targets.context_tokens(target)
        return window is not None and window < needs.input_tokens

    def _trouble(self, target: Target, needs: CallNeeds) -> str | None:
        """Why the target would be passed over now."""
        guarded = self._targets.find(target)
        assert guarded is not None
        if guarded.breaker.seconds_to_probe > 0:
            return f"circuit open for {guarded.breaker.seconds_to_probe:.0f} s more"
        seconds = guarded.seconds_until(needs.input_tokens)
        return f"rate limit leaves no room for {max(seconds, 0.1):.1f} s" if seconds else None

    def _candidate(
        self, target: Target, reason: str, needs: CallNeeds, estimate: EstimateCost, *, eligible: bool
    ) -> RouteCandidate:
        latency = self._latencies.milliseconds(target, streamed=needs.streamed)
        return RouteCandidate(str(target), eligible, reason, estimate(target), latency)


def _no_route(message: str) -> Refused:
    return Refused(InvalidInput(message, ("model",), ProblemCode.NO_ROUTE))


def _short(name: str) -> str:
    return repr(name if len(name) <= 100 else f"{name[:100]}…")
