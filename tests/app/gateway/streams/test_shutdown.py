"""Streams that run when their process is asked to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

import pytest
from redis import Redis
from sqlalchemy import text

from app.access.principal import Scope
from app.gateway.completions import CompletionStatus
from app.gateway.streams.events import CompletionDelta, CompletionStarted
from app.services import Services
from tests.app.access.principals import principal
from tests.app.conftest import OpenProcess
from tests.app.gateway.streams.test_streams import SLOW, until
from tests.services import Stores, asked
from tests.simulators import RunningSimulator

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

ACME = principal(Scope.COMPLETIONS)


@contextmanager
def paused_redis(valkey_url: str) -> Iterator[None]:
    """It takes no write, and refuses none."""
    with Redis.from_url(valkey_url) as server:
        server.client_pause(60_000, all=False)
        try:
            yield
        finally:
            server.client_unpause()


async def running_calls(services: Services) -> Sequence[UUID]:
    async with services.sessions.read(primary=True) as session:
        return (await session.execute(text("select key from completions where status = 'RUNNING'"))).scalars().all()


class TestClose:
    async def test_settles_and_releases_what_waits_for_a_slow_log(
        self, open_process: OpenProcess, simulator: RunningSimulator, stores: Stores
    ) -> None:
        """Before the first entry is in the log nothing was sent, and so nothing stays held, or is charged."""
        settings = stores.settings(simulator)
        redis = settings.redis.model_copy(update={"socket_timeout": timedelta(seconds=20)})
        services = await open_process(settings.model_copy(update={"redis": redis}))
        with paused_redis(stores.valkey_url):
            starting = asyncio.create_task(services.gateway.start(asked(), ACME))
            async with asyncio.timeout(10):
                while not await running_calls(services):  # noqa: ASYNC110 (the ledger has no notice of an admission)
                    await asyncio.sleep(0.01)
            closing = asyncio.create_task(services.gateway.close())
            await asyncio.wait([closing, starting], timeout=1.5)
            assert not closing.done()
            assert not starting.done()
        async with asyncio.timeout(10):
            await closing
            completion = await starting
        stored = await services.ledger.stored(completion.key)
        assert stored is not None
        assert stored.status == CompletionStatus.CANCELLED.value
        assert [entry for entry in simulator.log() if entry.operation == "completion"] == []

    async def test_settles_what_had_come_of_a_stream_that_goes_on(self, services: Services, simulator: RunningSimulator) -> None:
        simulator.post(SLOW | {"answer": {"tokens": 5000}})
        seen = await until(services.gateway.stream(asked(cap=6000), ACME), CompletionDelta)
        started = seen[0]
        assert isinstance(started, CompletionStarted)
        await services.gateway.close()
        completion = await services.gateway.completion(started.key, ACME)
        assert completion is not None
        assert completion.status is CompletionStatus.CANCELLED
        assert completion.usage is not None
        assert completion.usage.output_tokens > 0
        assert await running_calls(services) == []
