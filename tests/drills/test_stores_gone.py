"""PostgreSQL stops answering: no answer is given that the ledger does not have, and service returns with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import aiohttp
import psutil
import pytest

from tests.integration.test_accounting import COMPLETE
from tests.processes import family, named
from tests.servers import RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(180)]

VARIABLES = {"input": {"messages": [{"role": "USER", "text": "Are you there?"}], "maxOutputTokens": 50}}


@contextmanager
def frozen_postgres(server: RunningServer) -> Iterator[None]:
    """Every process of PostgreSQL is stopped, so that connections stay open and nothing answers."""
    processes = named(family(server.process.pid), "postgres")
    assert processes
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


async def complete(session: aiohttp.ClientSession, server: RunningServer, key: str) -> dict[str, object]:
    body = {"query": COMPLETE, "variables": VARIABLES}
    async with session.post(server.url, json=body, headers={"Authorization": f"Bearer {key}"}) as response:
        answer: dict[str, object] = await response.json(content_type=None)
        return answer


def codes(answer: dict[str, object]) -> list[object]:
    errors = cast("list[dict[str, dict[str, object]]]", answer.get("errors", []))
    return [error["extensions"]["code"] for error in errors]


class TestPostgresGone:
    async def test_a_completion_is_refused_and_serves_again_when_postgres_does(self, tmp_path: Path) -> None:
        with start_server(tmp_path / "data") as server:
            key = server.key
            assert key is not None
            async with aiohttp.ClientSession() as session:
                assert codes(await complete(session, server, key)) == []
                sent_before = len(server.simulator_log)
                with frozen_postgres(server):
                    assert codes(await complete(session, server, key)) == ["STORE_UNAVAILABLE"]
                    assert len(server.simulator_log) == sent_before, "a provider was asked for a call that nobody could admit"
                    async with session.get(f"{server.address}/ready") as ready:
                        assert ready.status == 503
                    async with session.get(f"{server.address}/healthz") as alive:
                        assert alive.status == 200
                deadline = time.monotonic() + 30
                while codes(answer := await complete(session, server, key)):
                    assert time.monotonic() < deadline, answer
                    await asyncio.sleep(0.2)
