from __future__ import annotations

from app.supervisor.heartbeat import Heartbeat


class TestSilence:
    def test_is_not_counted_before_the_first_beat(self) -> None:
        heartbeat = Heartbeat()
        assert [heartbeat.silence(0.5) for _ in range(3)] == [0, 0, 0]

    def test_grows_until_the_next_beat(self) -> None:
        heartbeat = Heartbeat()
        heartbeat.beat()
        assert [heartbeat.silence(0.5) for _ in range(3)] == [0, 0.5, 1]
        heartbeat.beat()
        assert heartbeat.silence(0.5) == 0

    def test_counts_little_of_a_time_in_which_the_machine_stood_still(self) -> None:
        heartbeat = Heartbeat()
        heartbeat.beat()
        assert [heartbeat.silence(seconds) for seconds in (0.5, 3600)] == [0, 1]

    def test_of_a_process_that_was_restarted_begins_anew(self) -> None:
        heartbeat = Heartbeat()
        heartbeat.beat()
        heartbeat.silence(1)
        heartbeat.silence(1)
        heartbeat.beat()
        heartbeat.restart()
        assert heartbeat.silence(1) == 0

    def test_is_measured_also_if_the_pipe_was_full(self) -> None:
        heartbeat = Heartbeat()
        for _ in range(100_000):
            heartbeat.beat()
        while heartbeat.silence(0.0) == 0 and heartbeat.silence(0.25) == 0:
            pass
        assert heartbeat.silence(0.5) > 0
