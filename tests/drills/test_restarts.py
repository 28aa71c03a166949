"""Server processes die while streams begin anew: every watcher sees the same events and a typed end."""

from __future__ import annotations

import asyncio
import os
import signal
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest

from tests.drills.agents import until_true
from tests.drills.test_streams import START, Event, Watcher
from tests.servers import Client, start_server
from tests.simulators import RunningSimulator, StepFields, start_simulator

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(120)]

STREAMS = 8
"""Of each kind."""
EVENTS = """
subscription($id: ID!, $after: Cursor) {
  completionEvents(id: $id, after: $after) {
    __typename
    ... on StreamEvent { cursor }
    ... on CompletionDelta { text }
    ... on CompletionRestarted { reason attempt { provider } }
    ... on CompletionFinished { completion { text } }
    ... on CompletionFailed { problem { ... on Problem { code } } partial { text costUsd } }
  }
}"""
SPENT = "{ budgets { nodes { heldUsd spentUsd } } }"
BUDGET = """mutation { budgetCreate(input: {name: "all", scope: {}, limitUsd: "100"}) { ... on Budget { id } } }"""
MODEL = """
[[providers.models]]
name = "{name}"
price = {{ input_usd = 3, output_usd = 15 }}
"""
PROVIDER = """
[[providers]]
name = "{name}"
kind = "{name}"
base_url = "{address}"
api_keys = [{{ env = "SIMULATED_KEY" }}]
timeouts = {{ first_token = "60s", idle = "60s" }}
breaker = {{ failures = 1000000, window_min_calls = 1000000 }}
"""
ROUTES = """
[[routes]]
name = "drips"
targets = ["anthropic/claude-breaks", "openai/gpt-drips"]
[[routes]]
name = "waits"
targets = ["anthropic/claude-breaks", "openai/gpt-waits"]
"""
BREAKS: StepFields = {"model": "claude-breaks", "fault": "malformed", "after_tokens": 5, "fault_delay_ms": 300, "count": None}
DRIPS: StepFields = {"model": "gpt-drips", "token_delay_ms": 200, "answer": {"tokens": 60}, "count": None}
WAITS: StepFields = {"model": "gpt-waits", "first_token_delay_ms": 60_000, "count": None}


def configuration(simulator: RunningSimulator) -> str:
    anthropic = PROVIDER.format(name="anthropic", address=simulator.anthropic_url) + MODEL.format(name="claude-breaks")
    models = [MODEL.format(name=name) for name in ("gpt-drips", "gpt-waits")]
    return "".join([anthropic, PROVIDER.format(name="openai", address=simulator.openai_url), *models, ROUTES])


def not_void(events: list[Event]) -> str:
    places = [place for place, event in enumerate(events) if event["__typename"] == "CompletionRestarted"]
    return "".join(event.get("text", "") for event in events[places[-1] + 1 if places else 0 :])


def has_begun(watcher: Watcher, route: str) -> bool:
    """Its new answer drips, or is waited for after the first one broke."""
    kinds = [event["__typename"] for event in watcher.events]
    return "CompletionRestarted" in kinds[:-1] if route == "drips" else "CompletionDelta" in kinds


class TestOwnerKilledWhileItsStreamsBeginAnew:
    async def test_they_end_as_failed_with_what_is_not_void(self, tmp_path: Path) -> None:
        with start_simulator() as simulator:
            simulator.post(BREAKS, DRIPS, WAITS)
            file = tmp_path / "greenlang.toml"
            file.write_text(configuration(simulator))
            environ = {"SIMULATED_KEY": "sk-simulated"}
            with start_server(tmp_path / "data", "--workers", "2", "--config", str(file), environ=environ) as server:
                key = server.key
                assert key is not None
                async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0)) as session:
                    client = Client(session, server, key)
                    await client.execute(BUDGET)

                    async def start(route: str, number: int) -> Watcher:
                        messages = [{"role": "USER", "text": f"Question {number}"}]
                        asked = {"model": route, "messages": messages, "maxOutputTokens": 100, "restart": True}
                        data = await client.execute(START, {"input": asked})
                        started = cast("dict[str, str]", data["completionStart"])
                        return Watcher(server, key, started["id"], EVENTS)

                    routes = ["drips", "waits"] * STREAMS
                    firsts = await asyncio.gather(*(start(route, number) for number, route in enumerate(routes)))
                    watchers = [*firsts, *(Watcher(server, key, first.completion, EVENTS) for first in firsts)]
                    watching = asyncio.gather(*(watcher.run(session) for watcher in watchers))
                    pairs = list(zip(watchers, routes * 2, strict=True))
                    await until_true(lambda: all(has_begun(watcher, route) for watcher, route in pairs))
                    await asyncio.to_thread(simulator.seen, 2 * len(routes))
                    for process in server.servers:
                        os.kill(process.pid, signal.SIGKILL)
                    async with asyncio.timeout(60):
                        await watching
                    budgets: Any = await client.execute(SPENT)

        assert all(watcher.events[-1]["__typename"] == "CompletionFailed" for watcher in watchers)
        for watcher, route in pairs:
            partial = watcher.events[-1]["partial"]
            assert partial["text"] == not_void(watcher.events) != ""
            assert Decimal(partial["costUsd"]) > 0
            restarts = [event for event in watcher.events if event["__typename"] == "CompletionRestarted"]
            assert len(restarts) == (1 if route == "drips" else 0)
        half = len(firsts)
        assert [watcher.events for watcher in watchers[:half]] == [watcher.events for watcher in watchers[half:]]
        [budget] = budgets["budgets"]["nodes"]
        assert budget["heldUsd"] == "0"
        assert Decimal(budget["spentUsd"]) == sum(Decimal(first.events[-1]["partial"]["costUsd"]) for first in firsts)
