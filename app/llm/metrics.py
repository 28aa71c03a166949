"""The outcomes of calls: per provider over a sliding window, and per provider and model for Prometheus.

Nothing here ever holds content. Memory is bounded: latencies are counted in logarithmic buckets that are a few percent wide.
After many names of models that are not configured, further ones are counted as `other`. Those that are configured have counts of
0 from the start.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client import Counter as PrometheusCounter

from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.errors import FailureKind
from app.domain.usage import TokenUsage
from app.llm.routing import Target
from app.runtime.clock import Clock

WINDOW_SECONDS = 300
_SLOT_SECONDS = 10
_BUCKETS_PER_E = 20.0
_OTHER_MODELS = 100
_LATENCY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0)
_SILENT = frozenset({AttemptOutcome.SKIPPED_OPEN_CIRCUIT, AttemptOutcome.SKIPPED_LIMIT, AttemptOutcome.SKIPPED_BUDGET})


@dataclass(frozen=True, slots=True)
class AttemptFinished:
    """One attempt as listeners get it. `kind` is None if the attempt did not fail."""

    attempt: Attempt
    kind: FailureKind | None = None
    first_token_ms: float | None = None
    streamed: bool = False


@dataclass(frozen=True, slots=True)
class ProviderMetrics:
    """Figures of the last `window_seconds`; None if nothing is known."""

    window_seconds: int
    requests: int
    failures: int
    success_rate: float | None
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    first_token_p50_ms: float | None
    cost_usd: Decimal | None


@dataclass(slots=True)
class _Slot:
    start: float
    requests: int = 0
    failures: int = 0
    cost: Decimal | None = None
    latency: Counter[int] = field(default_factory=Counter)
    first_token: Counter[int] = field(default_factory=Counter)


def _bucket(milliseconds: float) -> int:
    return int(math.log1p(milliseconds) * _BUCKETS_PER_E)


def _quantile(counts: Mapping[int, int], share: float) -> float | None:
    left = math.ceil(sum(counts.values()) * share)
    for bucket in sorted(counts):
        left -= counts[bucket]
        if left <= 0:
            return math.expm1((bucket + 0.5) / _BUCKETS_PER_E)
    return None


class Window:
    """The last five minutes of one provider, in slots of ten seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._slots: deque[_Slot] = deque()

    def add(self, finished: AttemptFinished) -> None:
        slot = self._slot()
        attempt = finished.attempt
        slot.requests += 1
        if attempt.outcome is AttemptOutcome.SUCCEEDED:
            slot.latency[_bucket(attempt.latency_ms)] += 1
        elif attempt.outcome is not AttemptOutcome.CANCELLED:
            slot.failures += 1
        if finished.first_token_ms is not None:
            slot.first_token[_bucket(finished.first_token_ms)] += 1

    def add_cost(self, cost_usd: Decimal) -> None:
        slot = self._slot()
        slot.cost = cost_usd if slot.cost is None else slot.cost + cost_usd

    def metrics(self) -> ProviderMetrics:
        self._drop_old()
        latency: Counter[int] = Counter()
        first_token: Counter[int] = Counter()
        for slot in self._slots:
            latency.update(slot.latency)
            first_token.update(slot.first_token)
        requests = sum(slot.requests for slot in self._slots)
        failures = sum(slot.failures for slot in self._slots)
        costs = [slot.cost for slot in self._slots if slot.cost is not None]
        return ProviderMetrics(
            window_seconds=WINDOW_SECONDS,
            requests=requests,
            failures=failures,
            success_rate=(requests - failures) / requests if requests else None,
            latency_p50_ms=_quantile(latency, 0.5),
            latency_p95_ms=_quantile(latency, 0.95),
            first_token_p50_ms=_quantile(first_token, 0.5),
            cost_usd=sum(costs, Decimal(0)) if costs else None,
        )

    def _slot(self) -> _Slot:
        start = self._clock.monotonic() // _SLOT_SECONDS * _SLOT_SECONDS
        if not self._slots or self._slots[-1].start != start:
            self._drop_old()
            self._slots.append(_Slot(start))
        return self._slots[-1]

    def _drop_old(self) -> None:
        oldest = self._clock.monotonic() - WINDOW_SECONDS
        while self._slots and self._slots[0].start + _SLOT_SECONDS <= oldest:
            self._slots.popleft()


class _Series:
    """The metrics of one provider and model. Their labels are looked up only once."""

    def __init__(self, metrics: Metrics, provider: str, model: str) -> None:
        self._metrics = metrics
        self._names = (provider, model)
        self._latency = metrics.latency.labels(provider, model)
        self._first_token = metrics.first_token.labels(provider, model)
        self._tokens: dict[str, PrometheusCounter] = {}
        self._outcomes = {outcome: metrics.requests.labels(provider, model, outcome.value.lower()) for outcome in AttemptOutcome}
        for kind in FailureKind:
            metrics.failures.labels(provider, model, kind.value)

    def add(self, finished: AttemptFinished) -> None:
        attempt = finished.attempt
        self._outcomes[attempt.outcome].inc()
        if finished.kind is not None:
            self._metrics.failures.labels(*self._names, finished.kind.value).inc()
        if attempt.outcome is AttemptOutcome.SUCCEEDED:
            self._latency.observe(attempt.latency_ms / 1000)
        if finished.first_token_ms is not None:
            self._first_token.observe(finished.first_token_ms / 1000)
        if attempt.usage is not None:
            self._count_tokens(attempt.usage)

    def add_cost(self, cost_usd: Decimal) -> None:
        self._metrics.cost.labels(*self._names).inc(float(cost_usd))

    def _count_tokens(self, usage: TokenUsage) -> None:
        classes = (
            ("input", usage.uncached_input_tokens),
            ("cached_input", usage.cached_input_tokens),
            ("cache_write", usage.cache_write_tokens),
            ("output", usage.visible_output_tokens),
            ("reasoning", usage.reasoning_tokens),
        )
        for name, tokens in classes:
            if tokens:
                counter = self._tokens.get(name)
                if counter is None:
                    counter = self._tokens[name] = self._metrics.tokens.labels(*self._names, name)
                counter.inc(tokens)


class Metrics:
    """Counts every attempt; `registry` is what /metrics renders."""

    def __init__(self, clock: Clock, registry: CollectorRegistry, models: frozenset[Target]) -> None:
        target = ("provider", "model")
        self.requests = PrometheusCounter(
            "greenlang_provider_requests", "Attempts at a provider, by outcome.", (*target, "outcome"), registry=registry
        )
        self.failures = PrometheusCounter(
            "greenlang_provider_failures", "Failed attempts, by kind of failure.", (*target, "kind"), registry=registry
        )
        self.latency = Histogram(
            "greenlang_provider_latency_seconds",
            "Time to the whole answer of an attempt that succeeded.",
            target,
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.first_token = Histogram(
            "greenlang_provider_first_token_seconds",
            "Time to the first token of a stream.",
            target,
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.tokens = PrometheusCounter(
            "greenlang_provider_tokens", "Tokens the provider billed, by disjoint class.", (*target, "class"), registry=registry
        )
        self.cost = PrometheusCounter(
            "greenlang_provider_cost_usd", "US dollars of calls whose price is known.", target, registry=registry
        )
        self._clock = clock
        self._configured = models
        self._series = {(each.provider, each.model): _Series(self, each.provider, each.model) for each in models}
        self._windows: dict[str, Window] = {}

    def add(self, finished: AttemptFinished) -> None:
        attempt = finished.attempt
        self._find(attempt.provider, attempt.model).add(finished)
        if attempt.outcome not in _SILENT:
            self.window(attempt.provider).add(finished)

    def add_cost(self, target: Target, cost_usd: Decimal) -> None:
        self._find(target.provider, target.model).add_cost(cost_usd)
        self.window(target.provider).add_cost(cost_usd)

    def window(self, provider: str) -> Window:
        window = self._windows.get(provider)
        if window is None:
            window = self._windows[provider] = Window(self._clock)
        return window

    def _find(self, provider: str, model: str) -> _Series:
        series = self._series.get((provider, model))
        if series is not None:
            return series
        if Target(provider, model) not in self._configured and len(self._series) >= len(self._configured) + _OTHER_MODELS:
            model = "other"
        return self._series.setdefault((provider, model), _Series(self, provider, model))
