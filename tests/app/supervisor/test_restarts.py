"""How soon something that died is started again."""

from __future__ import annotations

from app.supervisor.restarts import LONG_LIFE_SECONDS, MAX_SECONDS, Restarts
from tests.clocks import ManualClock


def dies_after(restarts: Restarts, clock: ManualClock, seconds: float) -> float:
    """Seconds until the next start is due; then it is started."""
    clock.move(seconds)
    restarts.died()
    waited = 0.0
    while not restarts.due:
        clock.move(0.25)
        waited += 0.25
    restarts.started()
    return waited


class TestRestarts:
    def test_the_first_death_is_repaired_at_once_and_the_next_ones_ever_later(self) -> None:
        clock = ManualClock()
        restarts = Restarts(clock)
        restarts.started()
        assert [dies_after(restarts, clock, 0.1) for _ in range(7)] == [0, 0.5, 1, 2, 4, MAX_SECONDS, MAX_SECONDS]

    def test_a_long_life_forgives(self) -> None:
        clock = ManualClock()
        restarts = Restarts(clock)
        restarts.started()
        for _ in range(4):
            dies_after(restarts, clock, 0.1)
        assert dies_after(restarts, clock, LONG_LIFE_SECONDS) == 0

    def test_while_it_is_dead_it_dies_no_second_time(self) -> None:
        clock = ManualClock()
        restarts = Restarts(clock)
        restarts.started()
        dies_after(restarts, clock, 0.1)
        restarts.died()
        clock.move(0.4)
        restarts.died()
        clock.move(0.1)
        assert restarts.due

    def test_nothing_is_due_while_it_lives(self) -> None:
        assert not Restarts(ManualClock()).due
