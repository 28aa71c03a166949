"""The whole server behind PgBouncer in transaction mode: completions, budgets, alerts and streams, from two processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias, cast

import aiohttp
import msgspec
import pytest

from tests.drills.test_alerts import followed, make_budgets
from tests.integration.test_accounting import CLIENTS, COSTS, billed, complete_many, price
from tests.poolers import start_pooler
from tests.servers import Client, RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(240)]

Data: TypeAlias = "dict[str, Any]"  # JSON as a client sees it

CALLS = 300
STREAMS = 20
STREAM = """subscription($input: CompletionInput!) { completionStream(input: $input) {
  __typename ... on CompletionDelta { text } ... on CompletionFinished { completion { status costUsd } } } }"""
SMALL_BUDGET = """mutation { budgetCreate(input: {
  name: "small", scope: {agent: "poor"}, limitUsd: "0.000001", enforcement: BLOCK}) { __typename ... on Budget { id } } }"""
REFUSED = "mutation($input: CompletionInput!) { completionCreate(input: $input) { __typename } }"


@pytest.fixture(params=["direct", "polling"])
def server(request: pytest.FixtureRequest, tmp_path: Path, database_url: str, owner_url: str) -> Iterator[RunningServer]:
    with ExitStack() as stack:
        (tmp_path / "pooler").mkdir()
        service, owner = stack.enter_context(start_pooler(tmp_path / "pooler", database_url, owner_url))
        environ = {
            "GREENLANG_DATABASE__PRIMARY": service,
            "GREENLANG_DATABASE__OWNER": owner_url if request.param == "direct" else owner,
            "GREENLANG_DATABASE__STATEMENT_CACHE": "false",
        }
        if request.param == "direct":
            environ["GREENLANG_DATABASE__DIRECT"] = database_url
        log = tmp_path / "log"
        server = stack.enter_context(start_server(tmp_path / "data", "--workers", "2", environ=environ, log=log))
        yield server
        said = [msgspec.json.decode(line) for line in log.read_bytes().splitlines() if line.startswith(b"{")]
        warned = [entry for entry in said if entry["level"] in {"warning", "error"}]
        unexpected = [entry for entry in warned if entry["message"] != "a statement was slow" and "unencrypted" not in str(entry)]
        polls = [entry for entry in unexpected if "the server polls" in str(entry)]
        assert len(polls) == (request.param == "polling")
        assert [entry for entry in unexpected if entry not in polls] == []


async def stream(session: aiohttp.ClientSession, server: RunningServer, number: int) -> list[Data]:
    asked = {"messages": [{"role": "USER", "text": f"Stream {number}, please."}], "maxOutputTokens": 50}
    body, headers = {"query": STREAM, "variables": {"input": asked}}, {"Accept": "text/event-stream"}
    async with session.post(server.url, json=body, headers=headers) as response:
        lines = [line async for line in response.content if line.startswith(b"data: ")]
    return [msgspec.json.decode(line[6:])["data"]["completionStream"] for line in lines]


class TestBehindAPooler:
    async def test_calls_cost_what_was_billed_and_budgets_refuse_and_alerts_and_streams_arrive(
        self, server: RunningServer
    ) -> None:
        assert server.key is not None
        headers = {"Authorization": f"Bearer {server.key}"}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CLIENTS), headers=headers) as session:
            client = Client(session, server, server.key)
            async with followed(server, server.key):
                answers, streams, _ = await asyncio.gather(
                    complete_many(client, CALLS),
                    asyncio.gather(*(stream(session, server, number) for number in range(STREAMS))),
                    make_budgets(server, server.key),
                )
            await client.execute(SMALL_BUDGET)
            poor = {"messages": [{"role": "USER", "text": "Please."}], "maxOutputTokens": 50, "agent": "poor"}
            refused = await client.execute(REFUSED, {"input": poor})
            report = cast("dict[str, Data]", (await client.execute(COSTS))["costs"])
        assert refused["completionCreate"] == {"__typename": "BudgetExceeded"}
        assert [answer for answer in answers if answer["__typename"] != "Completion"] == []
        ends = [events[-1] for events in streams]
        assert [end["completion"]["status"] for end in ends] == ["FINISHED"] * STREAMS
        assert all(any(event["__typename"] == "CompletionDelta" for event in events) for events in streams)
        assert Decimal(report["totals"]["costUsd"]) == sum(map(price, billed(server)))
