"""Alerts while Valkey dies again and again: they come from PostgreSQL, each once and to all in one order."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.drills.agents import Agents, until_true
from tests.drills.test_alerts import BUDGETS, FOLLOWERS, THRESHOLDS, Follower, make_budgets, raised
from tests.processes import family, kill_all, named
from tests.servers import RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(150)]

KILLS = 3


async def kill_redis(server: RunningServer, killed: list[int]) -> None:
    """Again whenever its keeper has started another."""
    while True:
        found = [process for process in named(family(server.process.pid), "valkey-server") if process.pid not in killed]
        kill_all(found)
        killed += [process.pid for process in found]
        await asyncio.sleep(1.0)


class TestValkeyKilledWhileAlertsAreFollowed:
    async def test_every_follower_sees_each_alert_once_and_in_the_same_order(self, tmp_path: Path) -> None:
        with start_server(tmp_path / "data", "--workers", "2") as server:
            assert server.key is not None
            assert await Agents(server, server.key).ask(1)
            first = Follower(server, server.key)
            await first.visit(events=1)
            followers = [Follower(server, server.key, first.cursor) for _ in range(FOLLOWERS)]
            killed: list[int] = []
            tasks = [asyncio.create_task(follower.follow()) for follower in followers]
            tasks.append(asyncio.create_task(kill_redis(server, killed)))
            await make_budgets(server, server.key)
            await until_true(lambda: len(killed) >= KILLS)
            there = await raised(server, server.key)
            await until_true(lambda: all(len(follower.seen) >= len(there) for follower in followers))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert len(there) == BUDGETS * len(THRESHOLDS)
        for follower in followers:
            assert set(follower.seen) == there
            assert follower.seen == followers[0].seen
            assert len(follower.seen) == len(there), "an alert was seen twice"
