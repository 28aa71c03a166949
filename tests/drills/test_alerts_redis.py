"""Alerts while Valkey dies again and again: they come from PostgreSQL, each once and to all in one order."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.drills.agents import until_true
from tests.drills.test_alerts import followed, make_budgets
from tests.processes import family, folder, kill_all, named
from tests.servers import RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(150)]

KILLS = 3


async def kill_redis(server: RunningServer, killed: list[int]) -> None:
    """Again whenever its keeper has started another."""
    while True:
        running = named(family(server.process.pid), "valkey-server")
        found = [each for each in running if each.pid not in killed and folder(each) == "valkey"]
        kill_all(found)
        killed += [process.pid for process in found]
        await asyncio.sleep(1.0)


class TestValkeyKilledWhileAlertsAreFollowed:
    async def test_every_follower_sees_each_alert_once_and_in_the_same_order(self, tmp_path: Path) -> None:
        with start_server(tmp_path / "data", "--workers", "2") as server:
            assert server.key is not None
            killed: list[int] = []
            killing = asyncio.create_task(kill_redis(server, killed))
            async with followed(server, server.key):
                await make_budgets(server, server.key)
                await until_true(lambda: len(killed) >= KILLS)
            killing.cancel()
            await asyncio.gather(killing, return_exceptions=True)
