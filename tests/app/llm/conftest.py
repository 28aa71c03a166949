"""The simulator, and each adapter in turn that talks to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from app.llm.providers.adapter import Adapter
from app.settings import ProviderKindName
from tests.app.llm.calls import ANTHROPIC, MODELS, OPENAI, SHORT, adapter
from tests.simulators import RunningSimulator, start_simulator


@pytest.fixture(scope="session")
def running() -> Iterator[RunningSimulator]:
    with start_simulator("--cache-minimum-tokens", "64") as simulator:
        yield simulator


@pytest.fixture
def simulator(running: RunningSimulator) -> RunningSimulator:
    running.reset()
    return running


@pytest.fixture(params=[ANTHROPIC, OPENAI], ids=["anthropic", "openai"])
def kind(request: pytest.FixtureRequest) -> ProviderKindName:
    chosen: ProviderKindName = request.param
    return chosen


@pytest.fixture
def model(kind: ProviderKindName) -> str:
    return MODELS[kind]


@pytest.fixture
def base_url(kind: ProviderKindName, simulator: RunningSimulator) -> str:
    return simulator.anthropic_url if kind is ANTHROPIC else simulator.openai_url


@pytest.fixture
async def provider(kind: ProviderKindName, base_url: str) -> AsyncIterator[Adapter]:
    made = adapter(kind, base_url, timeouts=SHORT)
    yield made
    await made.close()
