"""A file of costs, from the question to the download, on a server as its users start it."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import cast

import aiohttp
import pytest

from tests.integration.test_accounting import COMPLETE, COSTS
from tests.servers import Client, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

EXPORT = """
mutation($groupBy: [CostDimension!]) {
  costExportCreate(input: {
    filter: {period: {from: "2026-01-01T00:00:00Z", to: "2100-01-01T00:00:00Z"}}, format: CSV, groupBy: $groupBy
  }) { __typename ... on CostExport { url expiresAt } ... on Problem { message } }
}"""


class TestExport:
    async def test_leads_to_a_file_whose_total_is_that_of_the_costs(self, tmp_path: Path) -> None:
        with start_server(tmp_path / "data") as server:
            assert server.key is not None
            async with aiohttp.ClientSession() as session:
                client = Client(session, server, server.key)
                for number in range(5):
                    messages = [{"role": "USER", "text": f"Question {number}"}]
                    await client.execute(COMPLETE, {"input": {"messages": messages, "maxOutputTokens": 20}})
                costs = cast("dict[str, dict[str, str]]", (await client.execute(COSTS))["costs"])["totals"]
                for group_by in (None, ["PROVIDER", "MODEL"]):
                    made = cast("dict[str, str]", (await client.execute(EXPORT, {"groupBy": group_by}))["costExportCreate"])
                    assert made["url"].startswith(f"{server.address}/exports/")
                    async with session.get(made["url"]) as answer:
                        assert answer.status == 200
                        text = (await answer.read()).decode("utf-8-sig")
                    *rows, total = csv.DictReader(io.StringIO(text, newline=""))
                    assert len(rows) == (5 if group_by is None else 1)
                    assert {name: total[name] for name in ("costUsd", "requests", "inputTokens")} == {
                        name: costs[name] for name in ("costUsd", "requests", "inputTokens")
                    }
                refused = cast("dict[str, str]", (await client.execute(EXPORT, {"groupBy": ["LABEL"]}))["costExportCreate"])
                assert refused["__typename"] == "InvalidInput"
                async with session.get(f"{server.address}/exports/x") as answer:
                    assert answer.status == 404
