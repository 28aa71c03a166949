"""An agent's loop of five turns with two tools at once, a thinking model and a PDF, through each kind of provider: killed in the
middle of its third call and resumed by another process, it ends as if nothing had happened, and no turn is paid for twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.drills.agents import Agents
from tests.servers import ROOT, RunningServer, start_server
from tests.simulators import RunningSimulator, start_simulator

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(240)]

Data: TypeAlias = "dict[str, Any]"  # JSON as a client sees it
TURNS = 5
KILLED_IN = 2
MODELS = {
    "anthropic": "claude-sonnet-5-5",
    "openai": "gpt-6-sol",
    "compatible": "sim-thinker",
}
THINKS: Data = {
    "operation": "completion",
    "count": None,
    "headers_delay_ms": 300,
    "answer": {"thinking_tokens": 40, "thinking_field": "reasoning_content"},
}
CONFIGURATION = """
[[providers]]
name = "anthropic"
kind = "anthropic"
base_url = "{anthropic}"
api_keys = [{{ env = "SIMULATED" }}]

[[providers]]
name = "openai"
kind = "openai"
base_url = "{openai}"
api_keys = [{{ env = "SIMULATED" }}]

[[providers]]
name = "compatible"
kind = "openai-compatible"
base_url = "{openai}"
api_keys = [{{ env = "SIMULATED" }}]

[[providers.models]]
name = "sim-thinker"
context_tokens = 100000
price = {{ input_usd = 1, output_usd = 4 }}
"""


@pytest.fixture(scope="module")
def simulator() -> Iterator[RunningSimulator]:
    with start_simulator() as running:
        yield running


@pytest.fixture(scope="module")
def server(simulator: RunningSimulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("loops")
    configuration = folder / "greenlang.toml"
    configuration.write_text(CONFIGURATION.format(anthropic=simulator.anthropic_url, openai=simulator.openai_url))
    environ = {"SIMULATED": "sk-simulated"}
    with start_server(folder / "data", "--config", str(configuration), "--workers", "2", environ=environ) as running:
        yield running


def start_agent(
    server: RunningServer, file: Path, model: str, *, streamed: bool, pause_before: int = -1
) -> subprocess.Popen[str]:
    options = ["--stream"] if streamed else []
    assert server.key is not None
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.drills.agent_loop",
            *(server.url, str(file), model, str(TURNS), "--pause-before", str(pause_before), *options),
        ],
        cwd=ROOT,
        env=os.environ | {"GREENLANG_KEY": server.key},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("provider", MODELS)
async def test_a_loop_is_resumed_by_another_process(
    server: RunningServer, simulator: RunningSimulator, tmp_path: Path, provider: str, *, streamed: bool
) -> None:
    simulator.reset()
    simulator.post(THINKS)
    file, model = tmp_path / f"{provider}-{streamed}.json", f"{provider}/{MODELS[provider]}"
    first = start_agent(server, file, model, streamed=streamed, pause_before=KILLED_IN)
    assert first.stdout is not None
    assert first.stdout.readline() == "pausing\n", first.communicate()
    simulator.seen(KILLED_IN + 1)
    first.kill()
    first.communicate()
    assert len([each for each in json.loads(file.read_text()) if each["role"] == "ASSISTANT"]) == KILLED_IN

    second = start_agent(server, file, model, streamed=streamed)
    printed, errors = second.communicate(timeout=120)
    assert (printed, second.returncode) == ("done\n", 0), errors

    messages: list[Data] = json.loads(file.read_text())
    spoken = [message for message in messages if message["role"] == "ASSISTANT"]
    assert [sorted(call["name"] for call in message["toolCalls"] or ()) for message in spoken] == [
        *[["clock", "weather"]] * (TURNS - 1),
        [],
    ]
    ids = [call["id"] for message in spoken for call in message["toolCalls"] or ()]
    assert [message["toolResult"]["id"] for message in messages if message["role"] == "TOOL"] == ids
    assert len(set(ids)) == len(ids)
    assert all(message["reasoning"] is not None for message in spoken if provider != "openai")

    billed = [entry for entry in simulator.log() if entry.billed]
    assert len(billed) == TURNS
    assert server.key is not None
    own = {entry.request_id for entry in billed}
    records = [record for record in await Agents(server, server.key).records() if record["providerRequestId"] in own]
    assert len(records) == TURNS
    assert all(record["confirmed"] and Decimal(record["costUsd"]) > 0 for record in records)
