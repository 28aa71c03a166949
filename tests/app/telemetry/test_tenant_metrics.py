from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from app.access.principal import Scope
from app.costs.budgets import BudgetScope, NewBudget
from app.costs.estimate import Estimator
from app.costs.prices import PriceBook
from app.domain.errors import Refused
from app.domain.usage import Operation
from app.runtime.clock import SystemClock
from app.services import build_services
from app.settings import TelemetrySettings
from app.telemetry.call_ended import CallEnded
from app.telemetry.tenant_metrics import TenantMetrics
from tests.app.access.principals import principal
from tests.services import Stores, asked
from tests.simulators import RunningSimulator

ENDED = CallEnded(
    operation=Operation.COMPLETION,
    requested_model="openai/gpt-5.4-mini",
    route=None,
    tenant="acme",
    agent="research",
    status="FINISHED",
    problem=None,
    started_at=datetime(2026, 12, 1, tzinfo=UTC),
    latency_ms=12.0,
    attempts=(),
    usage=None,
    cost_usd=Decimal("0.25"),
)


class TestTenantMetrics:
    def test_are_zero_from_the_start(self) -> None:
        registry = CollectorRegistry()
        TenantMetrics(registry, ["acme"])
        for tenant in ("", "acme"):
            assert registry.get_sample_value("greenlang_call_cost_usd_total", {"tenant": tenant}) == 0
            for status in ("finished", "failed", "cancelled"):
                assert registry.get_sample_value("greenlang_calls_total", {"tenant": tenant, "status": status}) == 0

    def test_name_no_tenant_that_is_not_configured(self) -> None:
        registry = CollectorRegistry()
        metrics = TenantMetrics(registry, ["acme"])
        for tenant in ("acme", "a", "b", "c"):
            metrics.add(replace(ENDED, tenant=tenant))
        assert registry.get_sample_value("greenlang_calls_total", {"tenant": "acme", "status": "finished"}) == 1
        assert registry.get_sample_value("greenlang_calls_total", {"tenant": "", "status": "finished"}) == 3
        assert registry.get_sample_value("greenlang_call_cost_usd_total", {"tenant": ""}) == 0.75
        shown = {sample.labels["tenant"] for family in registry.collect() for sample in family.samples}
        assert shown == {"", "acme"}


@pytest.mark.anyio
async def test_of_a_process_count_calls_and_refusals_of_the_named_tenant(
    stores: Stores, simulator: RunningSimulator, estimator: Estimator
) -> None:
    settings = stores.settings(simulator).model_copy(update={"telemetry": TelemetrySettings(metrics_tenants=("acme",))})
    async with build_services(settings, SystemClock(), estimator, PriceBook(settings)) as services:
        for tenant in ("acme", "globex"):
            caller = principal(Scope.COMPLETIONS, tenant=tenant, agent="researcher")
            await services.gateway.complete(asked("What is there?"), caller)
        await services.budgets.create(NewBudget("small", BudgetScope(tenant="acme"), Decimal("0.000001")))
        with pytest.raises(Refused):
            await services.gateway.complete(asked("What is there?"), principal(Scope.COMPLETIONS))
        value = services.metrics.get_sample_value
        for tenant in ("acme", ""):
            assert value("greenlang_calls_total", {"tenant": tenant, "status": "finished"}) == 1
            assert value("greenlang_budget_refusals_total", {"tenant": tenant}) == (tenant == "acme")
        assert (value("greenlang_redis_seconds_count") or 0) > 0
        shown = generate_latest(services.metrics).decode()
        assert "globex" not in shown
        assert "researcher" not in shown
