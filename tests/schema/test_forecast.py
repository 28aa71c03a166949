"""Forecasts as clients ask for them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from app.domain.errors import Forbidden, Refused
from app.domain.problems import InvalidInput
from tests.schema.api import GLOBEX, POWERLESS, Api, Data
from tests.schema.requests import EVER, ask, make_budget

pytestmark = pytest.mark.anyio

FORECAST = """query Ahead($filter: CostFilter!) {
  costForecast(filter: $filter) { asOf expectedUsd lowUsd highUsd method days { day expectedUsd lowUsd highUsd } } }"""


def next_days(days: int, **more: object) -> Data:
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return {"period": {"from": start.isoformat(), "to": (start + timedelta(days=days)).isoformat()}, **more}


class TestCostForecast:
    async def test_says_what_is_expected_by_when_and_how_it_knows(self, api: Api) -> None:
        answer = await ask(api)
        found = (await api.data(FORECAST, filter=next_days(3)))["costForecast"]
        assert found["method"].startswith("Straight line")
        assert len(found["days"]) == 3
        assert Decimal(answer["costUsd"]) <= Decimal(found["lowUsd"]) < Decimal(found["expectedUsd"]) < Decimal(found["highUsd"])

    async def test_is_null_for_a_tenant_that_spent_nothing(self, api: Api) -> None:
        await ask(api)
        assert await api.data(FORECAST, GLOBEX, filter=next_days(3)) == {"costForecast": None}

    async def test_shows_no_other_tenants(self, api: Api) -> None:
        assert isinstance(await api.raised(FORECAST, GLOBEX, filter=next_days(3, tenants=["acme"])), Forbidden)
        assert isinstance(await api.raised(FORECAST, POWERLESS, filter=next_days(3)), Forbidden)

    async def test_refuses_a_period_that_ends_too_far_ahead(self, api: Api) -> None:
        raised = await api.raised(FORECAST, filter=EVER)
        assert isinstance(raised, Refused)
        assert isinstance(raised.reason, InvalidInput)
        assert raised.reason.path == ("filter", "period", "to")


class TestBudgetForecast:
    async def test_is_null_until_something_is_spent(self, api: Api) -> None:
        assert (await make_budget(api))["forecastUsd"] is None
        answer = await ask(api)
        found = (await api.data("{ budgets { nodes { forecastUsd } } }"))["budgets"]["nodes"][0]
        assert Decimal(found["forecastUsd"]) >= Decimal(answer["costUsd"])
