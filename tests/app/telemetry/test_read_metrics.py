from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from app.telemetry.read_metrics import ReadMetrics


class TestReadMetrics:
    def test_are_read_when_they_are_asked_for(self) -> None:
        registry, waiting = CollectorRegistry(), [0.0]
        ReadMetrics(registry).gauge("greenlang_waiting", "Who waits.", lambda: [(["openai"], waiting[0])], ["provider"])
        waiting[0] = 3
        assert registry.get_sample_value("greenlang_waiting", {"provider": "openai"}) == 3

    def test_have_their_help_and_type_also_without_a_value(self) -> None:
        registry = CollectorRegistry()
        ReadMetrics(registry).counter("greenlang_refused", "Who was refused.", list, ["reason"])
        shown = generate_latest(registry).decode()
        assert "# HELP greenlang_refused_total Who was refused.\n# TYPE greenlang_refused_total counter\n" in shown

    def test_say_which_version_runs(self) -> None:
        registry = CollectorRegistry()
        ReadMetrics(registry)
        assert 'greenlang_build_info{python="3.' in generate_latest(registry).decode()
