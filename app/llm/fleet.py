"""All providers with their guards, probes and metrics. The service owns them, and the API shows them."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from random import Random, SystemRandom
from typing import TypeAlias

from prometheus_client import CollectorRegistry

from app.domain.errors import SettingsError
from app.llm.messages import UnsupportedPolicy
from app.llm.metrics import AttemptFinished, Metrics, ProviderMetrics
from app.llm.output_limits import known_output_tokens
from app.llm.probes import HealthChanged, HealthStatus, Monitor
from app.llm.provider import Provider
from app.llm.resilience.allowance import ModelAllowance
from app.llm.resilience.breaker import Breaker, BreakerState, BreakerStatus
from app.llm.resilience.breaker_shared import SharedBreaker
from app.llm.resilience.coordination import Coordination
from app.llm.resilience.guarded import Guarded
from app.llm.resilience.limiter import Buckets, Limiter, LimiterState, LocalBuckets, rates_of
from app.llm.resilience.retry import Retry
from app.llm.router import Router
from app.llm.routing import Route, RoutingStrategy, Target, parse_target
from app.llm.strategies import Latencies, Ordering
from app.redis.clients import RedisClient
from app.runtime.clock import Clock
from app.runtime.tasks import end_tasks
from app.settings import ModelSettings, ProviderKindName, ProviderSettings, RouteSettings, Settings
from app.telemetry.read_metrics import ReadMetrics

_MAX_UNLISTED_MODELS = 200
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Sizes are None if unknown."""

    provider: str
    name: str
    context_tokens: int | None
    max_output_tokens: int | None


@dataclass(frozen=True, slots=True)
class ModelBreaker:
    model: str
    breaker: BreakerState


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """The state of one provider at one moment."""

    name: str
    kind: str
    health: HealthStatus
    checked_at: datetime | None
    breakers: tuple[ModelBreaker, ...]
    limiters: tuple[LimiterState, ...]
    metrics: ProviderMetrics


@dataclass(frozen=True, slots=True)
class BreakerChanged:
    provider: str
    model: str
    breaker: BreakerState
    at: datetime


_OPEN = {BreakerStatus.CLOSED: 0.0, BreakerStatus.HALF_OPEN: 0.5, BreakerStatus.OPEN: 1.0}
FleetEvent: TypeAlias = BreakerChanged | HealthChanged | AttemptFinished
Listener: TypeAlias = Callable[[FleetEvent], None]


class _Member:
    """One provider with everything that guards it."""

    def __init__(self, settings: ProviderSettings, provider: Provider, fleet: Fleet) -> None:
        self.settings = settings
        self.provider = provider
        self.listed = {model.name: model for model in settings.models}
        self.retry = Retry(settings.retry, fleet.clock, fleet.random, silence=settings.timeouts.first_token)
        self.limiter = Limiter(
            settings.name,
            settings.limits,
            fleet.build_buckets(settings),
            fleet.clock,
            cached_is_free=settings.kind is ProviderKindName.ANTHROPIC,
        )
        self.monitor = Monitor(provider, self.breaker_statuses, fleet.publish, fleet.clock, fleet.random)
        self._fleet = fleet
        self.guards: OrderedDict[str, Guarded] = OrderedDict()
        for name in self.listed:
            self.guard(name)

    def offers(self, model: str) -> bool:
        return not self.listed or model in self.listed

    def guard(self, model: str) -> Guarded:
        """Returns the guard of a model, which is made at its first use. The number of unlisted models is bounded; the oldest
        one is forgotten."""
        guarded = self.guards.get(model)
        if guarded is None:
            if len(self.guards) >= len(self.listed) + _MAX_UNLISTED_MODELS:
                forgotten, _ = self.guards.popitem(last=False)
                if self._fleet.board is not None:
                    self._fleet.board.leave(f"{self.settings.name}/{forgotten}")
            guarded = self.guards[model] = self._build(model)
        return guarded

    def breaker_statuses(self) -> list[BreakerStatus]:
        """Reports OPEN only while calls are refused. After that time a breaker waits for traffic, not for recovery, so it is
        reported as HALF_OPEN."""
        breakers = [guarded.breaker for guarded in self.guards.values()]
        return [
            BreakerStatus.HALF_OPEN
            if breaker.state.status is BreakerStatus.OPEN and breaker.seconds_to_probe == 0
            else breaker.state.status
            for breaker in breakers
        ]

    def status(self) -> ProviderStatus:
        return ProviderStatus(
            name=self.settings.name,
            kind=self.provider.kind,
            health=self.monitor.health,
            checked_at=self.monitor.checked_at,
            breakers=tuple(ModelBreaker(model, guarded.breaker.state) for model, guarded in self.guards.items()),
            limiters=(*self.limiter.states, *(state for guarded in self.guards.values() for state in guarded.allowance.states())),
            metrics=self._fleet.metrics.window(self.settings.name).metrics(),
        )

    def _build(self, model: str) -> Guarded:
        name, fleet = self.settings.name, self._fleet

        def changed(state: BreakerState) -> None:
            fleet.publish(BreakerChanged(name, model, state, state.changed_at))
            self.monitor.publish_health()

        settings = self.settings.breaker
        target = Target(name, model)
        breaker = Breaker(settings, fleet.clock, changed)
        return Guarded(
            target,
            self.provider,
            breaker=SharedBreaker(breaker, str(target), fleet.board, settings.probe_after.total_seconds()),
            limiter=self.limiter,
            allowance=ModelAllowance(target, rates_of(self.settings), self.settings.limits.queue_timeout, fleet.clock),
            retry=self.retry,
            clock=fleet.clock,
            finished=fleet.publish,
            max_output_tokens=None if (listed := self.listed.get(model)) is None else listed.max_output_tokens,
        )


class Fleet:
    """Made by `build_fleet`. Owns the providers that it is given."""

    def __init__(
        self,
        settings: Settings,
        providers: Mapping[str, Provider],
        clock: Clock,
        *,
        registry: CollectorRegistry,
        random: Random,
        coordination: Coordination | None,
    ) -> None:
        self.clock = clock
        self.random = random
        self.board = None if coordination is None else coordination.board
        self._coordination = coordination
        self._listeners: list[Listener] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._routes = {route.name: _build_route(route) for route in settings.routes}
        listed = frozenset(Target(p.name, model.name) for p in settings.providers for model in p.models)
        self.metrics = Metrics(clock, registry, listed)
        self._latencies = Latencies(clock)
        self._members = {
            each.name: _Member(each, providers[each.name], self)
            for each in settings.providers
            if each.enabled and each.name in providers
        }
        _check_routes(settings)
        self.router = Router(self._routes, self, Ordering(self._latencies, random), self._latencies, clock)

    def providers(self) -> list[ProviderStatus]:
        return [member.status() for member in self._members.values()]

    def provider(self, name: str) -> ProviderStatus | None:
        member = self._members.get(name)
        return None if member is None else member.status()

    def kinds(self) -> dict[str, ProviderKindName]:
        """The kinds of the providers, by name."""
        return {name: member.settings.kind for name, member in self._members.items()}

    def models(self, provider: str | None = None) -> list[ModelInfo]:
        """The models that the provider lists and those that routes name."""
        found: dict[Target, ModelSettings | None] = {}
        for name, member in self._members.items():
            found.update((Target(name, model.name), model) for model in member.settings.models)
        for route in self._routes.values():
            for target in map(parse_target, route.targets):
                if target is not None and target.provider in self._members:
                    found.setdefault(target, None)
        return [
            ModelInfo(
                target.provider,
                target.model,
                None if model is None else model.context_tokens,
                self._max_output_tokens(target, model),
            )
            for target, model in found.items()
            if provider in {None, target.provider}
        ]

    def _max_output_tokens(self, target: Target, model: ModelSettings | None) -> int | None:
        if model is not None and model.max_output_tokens is not None:
            return model.max_output_tokens
        return known_output_tokens(self._members[target.provider].settings.kind, target.model)

    def routes(self) -> list[Route]:
        return list(self._routes.values())

    async def reset_breaker(self, provider: str, model: str | None = None) -> ProviderStatus | None:
        """Closes the breaker of one model, or of all models. Returns None if there is no such provider or model."""
        member = self._members.get(provider)
        if member is None or (model is not None and model not in member.guards):
            return None
        for name, guarded in member.guards.items():
            if model in {None, name}:
                await guarded.breaker.reset()
        return member.status()

    def listen(self, listener: Listener) -> None:
        """Calls `listener` with every BreakerChanged, HealthChanged and AttemptFinished, at once and in order. It must not
        block."""
        self._listeners.append(listener)

    def publish(self, event: FleetEvent) -> None:
        if isinstance(event, AttemptFinished):
            self.metrics.add(event)
            self._latencies.add(event)
        for listener in self._listeners:
            listener(event)

    def show(self, metrics: ReadMetrics) -> None:
        """Adds breakers and limiters to the metrics."""
        metrics.gauge(
            "greenlang_breaker_open",
            "1 while the breaker of a model refuses calls, 0.5 while it lets a probe through, else 0.",
            lambda: [
                ([status.name, each.model], _OPEN[each.breaker.status]) for status in self.providers() for each in status.breakers
            ],
            ["provider", "model"],
        )
        metrics.gauge(
            "greenlang_limiter_waiting",
            "Calls that wait for the rate limit of a provider.",
            lambda: [([status.name], max((each.waiting for each in status.limiters), default=0)) for status in self.providers()],
            ["provider"],
        )

    def add_cost(self, target: Target, cost_usd: Decimal) -> None:
        """Adds the cost of a settled attempt to the metrics."""
        self.metrics.add_cost(target, cost_usd)

    def build_buckets(self, settings: ProviderSettings) -> Buckets:
        rates = rates_of(settings)
        if self._coordination is None:
            return LocalBuckets(rates, self.clock)
        return self._coordination.buckets(settings.name, rates)

    def start(self) -> None:
        """Starts the probes and the exchange with other processes."""
        work = [member.monitor.run() for member in self._members.values()]
        if self._coordination is not None:
            work.append(self._coordination.run())
        self._tasks = [asyncio.create_task(each) for each in work]
        for task in self._tasks:
            task.add_done_callback(_log_crash)

    async def close(self) -> None:
        """Ends every task and closes the providers."""
        await end_tasks(self._tasks)
        for member in self._members.values():
            await member.limiter.close()
            await member.provider.close()
        if self._coordination is not None:
            await self._coordination.leave()

    def knows_provider(self, name: str) -> bool:
        return name in self._members

    def find(self, target: Target) -> Guarded | None:
        member = self._members.get(target.provider)
        return member.guard(target.model) if member is not None and member.offers(target.model) else None

    def context_tokens(self, target: Target) -> int | None:
        model = self._listed(target)
        return None if model is None else model.context_tokens

    def can_embed(self, target: Target) -> bool:
        member = self._members.get(target.provider)
        return member is not None and member.settings.kind is not ProviderKindName.ANTHROPIC

    def may_fetch_privately(self, target: Target) -> bool:
        member = self._members.get(target.provider)
        return member is not None and member.settings.allow_private_image_urls

    def _listed(self, target: Target) -> ModelSettings | None:
        member = self._members.get(target.provider)
        return None if member is None else member.listed.get(target.model)


def _build_route(settings: RouteSettings) -> Route:
    return Route(
        settings.name,
        RoutingStrategy(settings.strategy.value),
        settings.targets,
        settings.default_max_output_tokens,
        UnsupportedPolicy(settings.unsupported.value),
    )


def _check_routes(settings: Settings) -> None:
    listed = {provider.name: {model.name for model in provider.models} for provider in settings.providers}
    for i, route in enumerate(settings.routes):
        for j, text in enumerate(route.targets):
            path = f"routes.{i}.targets.{j}"
            target = parse_target(text)
            if target is None:
                raise SettingsError(path, f"{text!r} is not provider/model")
            if target.provider not in listed:
                raise SettingsError(path, f"there is no provider {target.provider!r}; there are {sorted(listed)}")
            if listed[target.provider] and target.model not in listed[target.provider]:
                raise SettingsError(path, f"{target.provider} lists no model {target.model!r}")


def _log_crash(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a background task of the providers ended", exc_info=error)


def build_fleet(
    settings: Settings,
    providers: Mapping[str, Provider],
    clock: Clock,
    *,
    redis: RedisClient | None = None,
    registry: CollectorRegistry | None = None,
    random: Random | None = None,
) -> Fleet:
    """With `redis`, all processes share breakers and limits; the caller closes it. `registry` is what /metrics renders. Raises
    SettingsError if a route names a target that is not configured."""
    return Fleet(
        settings,
        providers,
        clock,
        registry=registry or CollectorRegistry(),
        random=random or SystemRandom(),
        coordination=None if redis is None else Coordination(redis, clock, expected=settings.server.workers),
    )
