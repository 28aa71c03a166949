from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import strawberry

from app.costs.estimate import Estimator
from app.costs.prices import PriceBook
from app.runtime.clock import SystemClock
from app.secrets.reference import SecretReference
from app.services import build_services
from app.settings import SIMULATOR_KEY, DatabaseSettings, RedisSettings, Settings, with_simulator
from schema.build import build_schema
from tests.schema.api import Api
from tests.simulators import RunningSimulator, start_simulator


@pytest.fixture(scope="session")
def built_schema() -> strawberry.Schema:
    return build_schema()


@pytest.fixture(scope="session")
def estimator() -> Estimator:
    return Estimator()


@pytest.fixture(scope="session")
def simulator() -> Iterator[RunningSimulator]:
    with start_simulator() as running:
        yield running


@pytest.fixture
async def api(
    built_schema: strawberry.Schema,
    estimator: Estimator,
    simulator: RunningSimulator,
    *,
    database_url: str,
    valkey_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Api]:
    monkeypatch.setenv("TEST_DATABASE", database_url)
    monkeypatch.setenv("TEST_REDIS", valkey_url)
    monkeypatch.setenv(SIMULATOR_KEY, "sk-simulated")
    simulator.reset()
    settings = Settings(
        database=DatabaseSettings(primary=SecretReference(env="TEST_DATABASE"), pool_min=0),
        redis=RedisSettings(url=SecretReference(env="TEST_REDIS")),
    )
    settings = with_simulator(settings, simulator.address)
    async with build_services(settings, SystemClock(), estimator, PriceBook(settings)) as services:
        yield Api(built_schema, services)
