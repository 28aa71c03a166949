from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.errors import FailureKind
from app.domain.usage import TokenUsage
from app.llm.metrics import AttemptFinished, Metrics, ProviderMetrics, Window
from app.llm.routing import Target
from tests.clocks import ManualClock

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def finished(
    outcome: AttemptOutcome = AttemptOutcome.SUCCEEDED,
    *,
    model: str = "m",
    latency_ms: float = 100.0,
    first_token_ms: float | None = None,
    kind: FailureKind | None = None,
    usage: TokenUsage | None = None,
) -> AttemptFinished:
    return AttemptFinished(Attempt(uuid4(), "a", model, outcome, NOW, latency_ms, usage=usage), kind, first_token_ms)


class TestWindow:
    def test_nothing_known_is_none_never_zero(self) -> None:
        assert Window(ManualClock()).metrics() == ProviderMetrics(300, 0, 0, None, None, None, None, None)

    def test_it_counts_requests_failures_and_cost_of_the_last_five_minutes(self) -> None:
        clock = ManualClock()
        window = Window(clock)
        window.add(finished(AttemptOutcome.FAILED))
        clock.move(290)
        for _ in range(3):
            window.add(finished())
        window.add_cost(Decimal("0.1"))
        window.add_cost(Decimal("0.2"))
        metrics = window.metrics()
        assert (metrics.requests, metrics.failures, metrics.success_rate, metrics.cost_usd) == (4, 1, 0.75, Decimal("0.3"))
        clock.move(30)
        assert (window.metrics().requests, window.metrics().failures) == (3, 0)
        clock.move(300)
        assert window.metrics().success_rate is None

    def test_a_cancelled_call_is_no_failure(self) -> None:
        window = Window(ManualClock())
        window.add(finished(AttemptOutcome.CANCELLED))
        assert (window.metrics().requests, window.metrics().failures) == (1, 0)

    @given(latencies=st.lists(st.floats(1, 600_000), min_size=1, max_size=200))
    def test_percentiles_are_within_a_few_percent(self, latencies: list[float]) -> None:
        window = Window(ManualClock())
        for latency in latencies:
            window.add(finished(latency_ms=latency, first_token_ms=latency))
        metrics = window.metrics()
        ordered = sorted(latencies)
        median, p95 = ordered[(len(ordered) + 1) // 2 - 1], ordered[-(-len(ordered) * 95 // 100) - 1]
        assert metrics.latency_p50_ms == pytest.approx(median, rel=0.06, abs=0.1)
        assert metrics.latency_p95_ms == pytest.approx(p95, rel=0.06, abs=0.1)
        assert metrics.first_token_p50_ms == metrics.latency_p50_ms


class TestPrometheus:
    def test_attempts_failures_tokens_and_cost_are_counted_by_target(self) -> None:
        registry = CollectorRegistry()
        metrics = Metrics(ManualClock(), registry, frozenset({Target("a", "m")}))
        metrics.add(finished(first_token_ms=30, usage=TokenUsage(uncached_input_tokens=5, reasoning_tokens=7)))
        metrics.add(finished(AttemptOutcome.TIMED_OUT, kind=FailureKind.IDLE_TIMEOUT))
        metrics.add_cost(Target("a", "m"), Decimal("0.25"))

        def value(name: str, **labels: str) -> float | None:
            return registry.get_sample_value(name, {"provider": "a", "model": "m", **labels})

        assert value("greenlang_provider_requests_total", outcome="succeeded") == 1
        assert value("greenlang_provider_failures_total", kind="idle_timeout") == 1
        assert value("greenlang_provider_tokens_total", **{"class": "reasoning"}) == 7
        assert value("greenlang_provider_latency_seconds_count") == 1
        assert value("greenlang_provider_first_token_seconds_sum") == 0.03
        assert value("greenlang_provider_cost_usd_total") == 0.25

    def test_what_was_skipped_is_counted_but_is_no_request_of_the_window(self) -> None:
        metrics = Metrics(ManualClock(), CollectorRegistry(), frozenset())
        metrics.add(finished(AttemptOutcome.SKIPPED_LIMIT))
        assert metrics.window("a").metrics().requests == 0

    def test_names_that_callers_make_up_are_bounded(self) -> None:
        registry = CollectorRegistry()
        metrics = Metrics(ManualClock(), registry, frozenset({Target("a", "m")}))
        for number in range(1_000):
            metrics.add(finished(AttemptOutcome.FAILED, model=f"made-up-{number}"))
        text = generate_latest(registry).decode()
        assert text.count("greenlang_provider_latency_seconds_count{") < 110
        assert 'model="other"' in text
