"""The main promise, from outside: what the ledger says was spent is what the providers saw, to the last digit."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import cast

import aiohttp
import pytest
from genai_prices import calc_price, extract_usage

from tests.servers import Client, RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

CALLS = 1000
CLIENTS = 50
COMPLETE = """
mutation Complete($input: CompletionInput!) {
  completionCreate(input: $input) {
    __typename
    ... on Completion { id costUsd usage { confirmed } attempts { provider model providerRequestId } }
    ... on Problem { code message }
  }
}"""
COSTS = """
{
  costs(filter: {period: {from: "2026-01-01T00:00:00Z", to: "2100-01-01T00:00:00Z"}}, groupBy: [PROVIDER, MODEL]) {
    totals { costUsd requests failures unpricedRequests unconfirmedUsd inputTokens outputTokens }
    rows { nodes { provider model costUsd requests } }
  }
}"""
FLAVORS = {"anthropic": "default", "openai": "chat"}


def price(entry: dict[str, object]) -> Decimal:
    """One entry of the simulator's own log, priced by the public price list."""
    provider, model = cast(str, entry["provider"]), cast(str, entry["model"])
    raw = {"model": model, "usage": entry["usage"]}
    usage = extract_usage(raw, provider_id=provider, api_flavor=FLAVORS[provider]).usage
    return calc_price(usage, model, provider_id=provider).total_price


def billed(server: RunningServer) -> list[dict[str, object]]:
    return [entry for entry in server.simulator_log if entry["billed"]]


async def complete_many(client: Client, count: int) -> list[dict[str, object]]:
    """`count` different completions by 50 clients at once, over both providers."""
    answers: list[dict[str, object]] = []
    numbers = iter(range(count))

    async def one_client() -> None:
        for number in numbers:
            messages = [{"role": "USER", "text": f"Question {number}: what is new?"}]
            model = ("anthropic/claude-sonnet-5-5", "openai/gpt-6-sol")[number % 2]
            data = await client.execute(
                COMPLETE,
                {"input": {"messages": messages, "model": model, "maxOutputTokens": 100, "agent": f"agent-{number % 7}"}},
            )
            answers.append(cast("dict[str, object]", data["completionCreate"]))

    await asyncio.gather(*(one_client() for _ in range(CLIENTS)))
    return answers


class TestCompletionsOfFiftyClients:
    @pytest.mark.parametrize("workers", [1, 2])
    async def test_cost_what_the_simulator_logged(self, tmp_path: Path, workers: int) -> None:
        with start_server(tmp_path / "data", "--workers", str(workers)) as server:
            assert server.key is not None
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CLIENTS)) as session:
                client = Client(session, server, server.key)
                answers = await complete_many(client, CALLS)
                report = cast("dict[str, dict[str, object]]", (await client.execute(COSTS))["costs"])
            entries = billed(server)

        assert [answer for answer in answers if answer["__typename"] != "Completion"] == []
        assert len(answers) == len(entries) == CALLS
        totals = report["totals"]
        assert Decimal(cast(str, totals["costUsd"])) == sum(map(price, entries))
        assert sum(Decimal(cast(str, answer["costUsd"])) for answer in answers) == sum(map(price, entries))
        assert (totals["requests"], totals["unpricedRequests"], totals["unconfirmedUsd"]) == (str(CALLS), "0", "0")
