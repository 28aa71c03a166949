"""The classic faults of a provider, each met through the real SDKs: streamed and not, with and without a fallback, at both
providers. All cases run at once, each with models of its own, so that none trips another's breaker.

Time is a quarter of what users have: backoffs of 0.25, 0.5, 1 and 2 s. The first token may take a second and a half, the next
one half a second.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from types import MappingProxyType
from uuid import UUID

from app.access.principal import Scope
from app.costs.estimate import Estimator
from app.costs.prices import PriceBook
from app.costs.queries import CostFilter
from app.costs.reports import UsageRecord
from app.domain.attempts import Attempt
from app.domain.errors import Refused
from app.domain.paging import PageRequest
from app.gateway.completions import Completion, CompletionRequest
from app.gateway.streams.events import CompletionDelta, CompletionEvent, CompletionFailed, CompletionFinished
from app.llm.messages import Message, Role, Text
from app.llm.routing import ProvidersFailed
from app.runtime.clock import SystemClock
from app.services import Services, build_services
from app.settings import (
    ModelSettings,
    PriceSettings,
    ProviderKindName,
    ProviderSettings,
    ProviderTimeouts,
    RetrySettings,
    RouteSettings,
    Settings,
)
from simulator.attempts import Entry
from tests.app.access.principals import principal
from tests.services import ROOMY, Stores
from tests.simulators import RunningSimulator, StepFields

SCALE = 4
CALLER = principal(Scope.COMPLETIONS)
TIMEOUTS = ProviderTimeouts(
    connect=timedelta(seconds=1), first_token=timedelta(seconds=1.5), idle=timedelta(seconds=0.5), total=timedelta(seconds=10)
)
RETRY = RetrySettings(first_delay=timedelta(seconds=1 / SCALE), max_delay=timedelta(seconds=8 / SCALE), budget_per_second=1000.0)
PRICE = PriceSettings(input_usd=Decimal(3), output_usd=Decimal(15))
FAMILIES: Mapping[str, str] = MappingProxyType({"anthropic": "claude-haiku-5-5", "openai": "gpt-5.4-mini"})
CAP = 200
_SIXTY: StepFields = {"answer": {"tokens": 60}, "token_delay_ms": 5}
FOREVER: StepFields = {"count": None}

FAULTS: Mapping[str, StepFields] = MappingProxyType(
    {
        "429-retry-after": {"fault": "status", "status": 429, "retry_after": 1},
        "429-for-ever": {"fault": "status", "status": 429, **FOREVER},
        "500-once": {"fault": "status", "status": 500},
        "503-for-ever": {"fault": "status", "status": 503, **FOREVER},
        "reset-once": {"fault": "reset"},
        "reset-for-ever": {"fault": "reset", **FOREVER},
        "silent": {"fault": "silent", **FOREVER},
        "slow-first-token": {"first_token_delay_ms": 330, **FOREVER},
        "cut-after-40": {"fault": "cut", "after_tokens": 40, **_SIXTY, **FOREVER},
        "cut-before-all": {"fault": "cut", "after_tokens": 0, **FOREVER},
        "stall-after-20": {"fault": "stall", "after_tokens": 20, **_SIXTY, **FOREVER},
        "malformed": {"fault": "malformed", "after_tokens": 20, **_SIXTY, **FOREVER},
        "no-done": {"fault": "no_done", "stall_ms": 4000, **FOREVER},
        "context-too-long": {"fault": "context_too_long", **FOREVER},
        "prompt-filtered": {"fault": "prompt_filter", **FOREVER},
        "answer-filtered": {"fault": "content_filter", **FOREVER},
        "error-event": {"fault": "stream_error", "after_tokens": 20, **_SIXTY, **FOREVER},
    }
)


@dataclass(frozen=True)
class Case:
    fault: str
    provider: str
    streamed: bool
    fallback: bool

    @property
    def name(self) -> str:
        how = "streamed" if self.streamed else "whole"
        return f"{self.fault}-{self.provider}-{how}-{'fallback' if self.fallback else 'alone'}"

    @property
    def primary(self) -> str:
        return f"{FAMILIES[self.provider]}-{self.name}"

    @property
    def other_provider(self) -> str:
        return "openai" if self.provider == "anthropic" else "anthropic"

    @property
    def secondary(self) -> str:
        return f"{FAMILIES[self.other_provider]}-{self.name}-other"


CASES = tuple(
    Case(fault, provider, streamed, fallback)
    for fault, provider, streamed, fallback in product(FAULTS, FAMILIES, (True, False), (True, False))
)


@dataclass(frozen=True)
class Outcome:
    """What the caller, the providers and the ledger saw of one case. `shown` is the streamed text."""

    case: Case
    completion: Completion | None
    problem: ProvidersFailed | None
    shown: str
    ends: int
    seconds: float
    entries: tuple[Entry, ...]
    records: tuple[UsageRecord, ...]

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        if self.problem is not None:
            return self.problem.attempts
        assert self.completion is not None
        return self.completion.attempts

    def entries_at(self, model: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.model == model]


@dataclass(frozen=True)
class Pace:
    """How long the gateway waits, and how many cases run at a time."""

    timeouts: ProviderTimeouts
    retry: RetrySettings
    at_once: int


QUARTER = Pace(TIMEOUTS, RETRY, 32)


def settings_for(cases: Sequence[Case], stores: Stores, simulator: RunningSimulator, pace: Pace = QUARTER) -> Settings:
    models: dict[str, list[ModelSettings]] = defaultdict(list)
    for case in cases:
        models[case.provider].append(ModelSettings(name=case.primary, price=PRICE, context_tokens=100_000))
        models[case.other_provider].append(ModelSettings(name=case.secondary, price=PRICE, context_tokens=1_000_000))
    providers = tuple(
        ProviderSettings(
            name=kind.value,
            kind=kind,
            base_url=url,
            api_keys=(stores.secret("provider", "sk-simulated"),),
            models=tuple(models[kind.value]),
            timeouts=pace.timeouts,
            retry=pace.retry,
            limits=ROOMY,
            simulated=True,
        )
        for kind, url in (
            (ProviderKindName.ANTHROPIC, simulator.anthropic_url),
            (ProviderKindName.OPENAI, simulator.openai_url),
        )
    )
    routes = tuple(
        RouteSettings(
            name=case.name,
            targets=(
                f"{case.provider}/{case.primary}",
                *((f"{case.other_provider}/{case.secondary}",) if case.fallback else ()),
            ),
        )
        for case in cases
    )
    return stores.settings(simulator).model_copy(update={"providers": providers, "routes": routes})


def run_cases(cases: Sequence[Case], stores: Stores, simulator: RunningSimulator, pace: Pace = QUARTER) -> dict[Case, Outcome]:
    return asyncio.run(_run_cases(cases, stores, simulator, pace))


async def _run_cases(cases: Sequence[Case], stores: Stores, simulator: RunningSimulator, pace: Pace) -> dict[Case, Outcome]:
    simulator.post(*({**FAULTS[case.fault], "operation": "completion", "model": case.primary} for case in cases))
    room = asyncio.Semaphore(pace.at_once)

    async def one(services: Services, case: Case) -> tuple[Case, _Seen]:
        async with room:
            return case, await _call(services, case)

    settings = settings_for(cases, stores, simulator, pace)
    async with build_services(settings, SystemClock(), Estimator(), PriceBook(settings)) as services:
        seen = dict(await asyncio.gather(*(one(services, case) for case in cases)))
        records = await _records(services)
    entries = await asyncio.to_thread(simulator.log)
    return {
        case: Outcome(
            case,
            found.completion,
            found.problem,
            found.shown,
            found.ends,
            found.seconds,
            tuple(entry for entry in entries if entry.model in {case.primary, case.secondary}),
            tuple(record for record in records if record.model in {case.primary, case.secondary}),
        )
        for case, found in seen.items()
    }


@dataclass
class _Seen:
    completion: Completion | None = None
    problem: ProvidersFailed | None = None
    shown: str = ""
    ends: int = 0
    seconds: float = 0.0

    def fail(self, problem: object) -> None:
        assert isinstance(problem, ProvidersFailed), problem
        self.problem = problem


async def _call(services: Services, case: Case) -> _Seen:
    request = CompletionRequest((Message(Role.USER, (Text(f"Case {case.name}"),)),), model=case.name, max_output_tokens=CAP)
    seen = _Seen()
    begun = time.monotonic()
    if case.streamed:
        async with aclosing(services.gateway.stream(request, CALLER)) as events:
            async for event in events:
                _note(seen, event)
    else:
        try:
            seen.completion = await services.gateway.complete(request, CALLER)
        except Refused as refused:
            seen.fail(refused.reason)
    seen.seconds = time.monotonic() - begun
    return seen


def _note(seen: _Seen, event: CompletionEvent) -> None:
    if isinstance(event, CompletionDelta):
        seen.shown += event.text
    elif isinstance(event, CompletionFinished):
        seen.ends += 1
        seen.completion = event.completion
    elif isinstance(event, CompletionFailed):
        seen.ends += 1
        seen.completion = event.partial
        seen.fail(event.problem)


async def _records(services: Services) -> list[UsageRecord]:
    where = CostFilter(datetime(2026, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC), (CALLER.tenant,))
    found: list[UsageRecord] = []
    after: str | None = None
    while True:
        page = await services.reports.records(where, PageRequest(100, after))
        found += page.nodes
        if not page.page_info.has_next_page:
            return found
        after = page.page_info.end_cursor


def priced(entry: Entry) -> Decimal:
    """By the provider's own usage block."""
    assert entry.usage is not None
    usage = entry.usage
    tokens_in = usage.get("input_tokens", usage.get("prompt_tokens"))
    tokens_out = usage.get("output_tokens", usage.get("completion_tokens"))
    assert isinstance(tokens_in, int)
    assert isinstance(tokens_out, int)
    return (PRICE.input_usd * tokens_in + PRICE.output_usd * tokens_out) / 1_000_000


def ids(records: Sequence[UsageRecord]) -> set[UUID]:
    return {record.key for record in records}
