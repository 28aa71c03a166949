"""Many streams at once over WebSocket while a provider fails a fifth of its calls, as `benchmarks/streams.py` has 2,000."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from benchmarks.streams import BUDGET, Baseline, started, stream_many, until_nothing
from tests.servers import Client

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(180)]

STREAMS, TOKENS = 200, 40


@pytest.mark.long
class TestProviderThatFailsWhileManyStream:
    async def test_ends_each_once_and_leaves_nothing_behind(self, tmp_path: Path) -> None:
        with started(tmp_path) as (server, simulator):
            assert server.key is not None
            async with aiohttp.ClientSession() as session:
                client = Client(session, server, server.key)
                await client.execute(BUDGET)
                await stream_many(server, STREAMS, TOKENS)
                before = await Baseline.of(client, server, simulator)
                seen = await stream_many(server, STREAMS, TOKENS)
                left = await until_nothing(before, client, server, simulator)
        assert set(seen.ends_of.values()) == {1}
        assert len(seen.ends_of) == STREAMS
        assert seen.truncated == 0
        assert seen.ends["CompletionFinished"] > seen.ends["CompletionFailed"]
        assert left.is_nothing, left
