"""Fleets of scripted providers on a clock that tests move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import TypeVar

from app.domain.attempts import Attempt
from app.domain.errors import FailureKind, ProviderError, Refused
from app.llm.fleet import Fleet, FleetEvent, build_fleet
from app.llm.messages import Message, ModelCall, Role, Text
from app.llm.providers.scripted import Fail, Reply, ScriptedProvider, Step, text_answer
from app.llm.router import Plan, Routed, RoutedPart
from app.llm.routing import CallNeeds, RoutingPreference, Target
from app.settings import ModelSettings, ProviderKindName, ProviderLimits, ProviderSettings, RouteSettings, Settings, StrategyName
from tests.clocks import ManualClock

Problem = TypeVar("Problem")

HELLO = Reply(text_answer("hello there"))


def fail(kind: FailureKind, *, retry_after: float | None = None, delay: float = 0.0) -> Fail:
    wait = None if retry_after is None else timedelta(seconds=retry_after)
    return Fail(ProviderError(kind, retry_after=wait), delay=delay)


def provider_settings(name: str, **changes: object) -> ProviderSettings:
    basis = ProviderSettings(name=name, kind=ProviderKindName.OPENAI, models=(ModelSettings(name="m"),))
    return basis.model_copy(update=changes)


def problem(refused: Refused, kind: type[Problem]) -> Problem:
    assert isinstance(refused.reason, kind)
    return refused.reason


@dataclass
class Bench:
    """Providers by name with their scripts; the route `default` has all of them, in order, with the model `m`."""

    scripts: dict[str, Sequence[Step]]
    strategy: StrategyName = StrategyName.PRIORITY
    limits: ProviderLimits = ProviderLimits()
    models: dict[str, ModelSettings] = field(default_factory=dict)
    unlisted: bool = False
    changes: dict[str, object] = field(default_factory=dict)
    clock: ManualClock = field(default_factory=ManualClock)
    attempts: list[Attempt] = field(default_factory=list)
    events: list[FleetEvent] = field(default_factory=list)
    parts: list[RoutedPart] = field(default_factory=list)
    cap: int | None = 100
    calls: int = 0
    restart: bool = False
    prompt: str = ""
    """Of every call; left out, each has its own."""

    def __post_init__(self) -> None:
        self.providers = {name: ScriptedProvider(name, steps, self.clock) for name, steps in self.scripts.items()}
        self.settings = Settings(
            providers=tuple(
                provider_settings(
                    name,
                    limits=self.limits,
                    **self.changes,
                    models=() if self.unlisted else (self.models.get(name, ModelSettings(name="m")),),
                )
                for name in self.scripts
            ),
            routes=(
                RouteSettings(
                    name="default",
                    targets=tuple(f"{name}/{self.models[name].name if name in self.models else 'm'}" for name in self.scripts),
                    strategy=self.strategy,
                    default_max_output_tokens=100,
                ),
            ),
        )
        self.fleet: Fleet = build_fleet(self.settings, self.providers, self.clock, random=Random(7))
        self.fleet.listen(self.events.append)

    def call(self, within: float = 600.0) -> ModelCall:
        self.calls += 1
        message = Message(Role.USER, (Text(self.prompt or f"hello {self.calls}"),))
        return ModelCall("", (message,), 100, self.clock.monotonic() + within, restart=self.restart)

    def plan(self, model: str | None = None, preference: RoutingPreference | None = None, needs: CallNeeds | None = None) -> Plan:
        return self.fleet.router.plan(model, preference or RoutingPreference(), needs or CallNeeds(10), lambda _: None)

    async def admit(self, _: Target) -> int | None:
        return self.cap

    async def complete(
        self,
        model: str | None = None,
        *,
        preference: RoutingPreference | None = None,
        needs: CallNeeds | None = None,
        within: float = 600.0,
        tenant: str = "acme",
    ) -> Routed:
        plan = self.plan(model, preference, needs)
        return await self.fleet.router.route_completion(plan, self.call(within), self.admit, self.attempts.append, tenant=tenant)

    async def stream(self, *, within: float = 600.0) -> None:
        plan = self.plan(None, None, CallNeeds(10, streamed=True))
        call = self.call(within)
        async for part in self.fleet.router.route_stream(plan, call, self.admit, self.attempts.append, tenant="acme"):
            self.note(part)

    def note(self, part: RoutedPart) -> None:
        self.parts.append(part)

    @property
    def outcomes(self) -> list[str]:
        return [f"{attempt.provider} {attempt.outcome.value}" for attempt in self.attempts]


def no_price(_: Target) -> Decimal | None:
    return None
