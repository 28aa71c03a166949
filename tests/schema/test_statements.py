"""How many SQL statements a query takes: as many for a hundred rows as for one."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from app.db.statement_times import statement_name
from tests.schema.api import Api, counted
from tests.schema.requests import EVER, ask, make_budget

pytestmark = pytest.mark.anyio

DEEP = """
query Deep($filter: CostFilter!) {
  budgets(first: 100) {
    nodes { id name scope { tenant agent label { key value } } limitUsd spentUsd heldUsd remainingUsd periodStart forecastUsd }
    pageInfo { hasNextPage }
  }
  usageRecords(filter: $filter, first: 100) {
    edges { cursor node { id completionId labels { key value } usage { inputTokens } price { inputUsd } costUsd } }
  }
  providers { breakers { breaker { status } } models { inputPriceUsd outputPriceUsd } }
}
"""


class TestADeepQueryOverAHundredRows:
    async def test_takes_one_statement_a_list_and_one_for_all_forecasts(self, api: Api) -> None:
        for number in range(0, 100, 20):
            await asyncio.gather(*(ask(api, agent=f"agent-{number + each}") for each in range(20)))
            await asyncio.gather(*(make_budget(api, name=f"{number + each:03}") for each in range(20)))
        with counted(api.services) as statements:
            found = await api.data(DEEP, filter=EVER)
        assert len(found["budgets"]["nodes"]) == len(found["usageRecords"]["edges"]) == 100
        assert all(Decimal(node["forecastUsd"]) > 0 for node in found["budgets"]["nodes"])
        assert len(statements.texts) == 3, statements.texts
        assert {statement_name(each) for each in statements.texts} == {"budgets.read", "forecast.history", "records.page"}


class TestManyBudgetsById:
    async def test_are_loaded_by_one_statement(self, api: Api) -> None:
        ids = [(await make_budget(api, name=f"{number}"))["id"] for number in range(20)]
        document = "{ " + " ".join(f'b{number}: budget(id: "{each}") {{ name }}' for number, each in enumerate(ids)) + " }"
        with counted(api.services) as statements:
            found = await api.data(document)
        assert [found[f"b{number}"]["name"] for number in range(20)] == [f"{number}" for number in range(20)]
        assert len(statements.texts) == 1, statements.texts
