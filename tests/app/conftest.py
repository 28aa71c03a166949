from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.costs.estimate import Estimator
from app.costs.prices import PriceBook
from app.runtime.clock import SystemClock
from app.services import Services, build_services
from app.settings import Settings
from tests.services import Stores
from tests.simulators import RunningSimulator, start_simulator

OpenProcess = Callable[..., Awaitable[Services]]


@pytest.fixture(scope="session")
def estimator() -> Estimator:
    return Estimator()


@pytest.fixture(scope="session")
def playing() -> Iterator[RunningSimulator]:
    with start_simulator() as running:
        yield running


@pytest.fixture
def simulator(playing: RunningSimulator) -> RunningSimulator:
    playing.reset()
    return playing


@pytest.fixture
def stores(database_url: str, valkey_url: str, tmp_path: Path) -> Stores:
    return Stores.emptied(database_url, valkey_url, tmp_path)


@pytest.fixture
async def open_process(stores: Stores, simulator: RunningSimulator, estimator: Estimator) -> AsyncIterator[OpenProcess]:
    """Opens the service once more on the same stores: another process, as far as they can tell."""
    async with AsyncExitStack() as stack:

        async def open_one(settings: Settings | None = None) -> Services:
            settings = settings or stores.settings(simulator)
            return await stack.enter_async_context(build_services(settings, SystemClock(), estimator, PriceBook(settings)))

        yield open_one


@pytest.fixture
async def services(open_process: OpenProcess) -> Services:
    return await open_process()
