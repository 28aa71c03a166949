from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.simulators import RunningSimulator, start_simulator


@pytest.fixture(scope="session")
def shared_simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSimulator]:
    log: Path = tmp_path_factory.mktemp("simulator") / "attempts.jsonl"
    with start_simulator("--cache-minimum-tokens", "100", log=log) as running:
        yield running


@pytest.fixture
def simulator(shared_simulator: RunningSimulator) -> RunningSimulator:
    shared_simulator.reset()
    return shared_simulator


@pytest.fixture
async def anthropic_client(simulator: RunningSimulator) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=simulator.anthropic_url, api_key="sk-ant-test", max_retries=0, timeout=5) as client:
        yield client


@pytest.fixture
async def openai_client(simulator: RunningSimulator) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=simulator.openai_url, api_key="sk-test", max_retries=0, timeout=5) as client:
        yield client
