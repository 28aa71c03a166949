from __future__ import annotations

from app.llm.pace import LONGEST_WAIT, SHORTEST_WAIT, waiting_seconds


class TestWaiting:
    def test_takes_longer_with_more_streams_up_to_a_limit(self) -> None:
        waits = [waiting_seconds(count) for count in (0, 1, 100, 500, 1000, 100_000)]
        assert waits[:3] == [SHORTEST_WAIT] * 3
        assert SHORTEST_WAIT < waits[3] < waits[4] < waits[5] == LONGEST_WAIT
