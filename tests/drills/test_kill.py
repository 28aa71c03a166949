"""Server processes die without a word; nothing that was answered may be lost, and what is left must go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drills.agents import Agents, server_processes_killed
from tests.servers import start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(180)]

CALLS = 1500  # or more, until the last kill
KILLS = 3


class TestServerProcessesKilledDuringCompletions:
    @pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
    async def test_no_answered_completion_is_missing_after_a_restart(self, tmp_path: Path, workers: int) -> None:
        data_dir = tmp_path / "data"
        with start_server(data_dir, "--workers", str(workers)) as server:
            assert server.key is not None
            agents = Agents(server, server.key)
            async with server_processes_killed(server, workers, every=1.0, most=2 * KILLS) as killed:
                await agents.ask_all(CALLS, at_once=20, until_answered=False, until=lambda: len(killed) >= KILLS)
        with start_server(data_dir) as again:
            assert again.key is None
            recorded = {record["completionId"] for record in await Agents(again, server.key).records()}
        assert len(agents.answered) > CALLS // 2
        assert set(agents.answered.values()) <= recorded
