"""What the supervisor keeps running: the private stores, the simulator, the server processes.

Each part knows how to start, how to notice that it has died, and how to stop. Parts that died are restarted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkProcess
from typing import Protocol
from urllib.parse import urlsplit

from app.domain.errors import GreenLangError
from app.embedded.stores import PrivateStores
from app.runtime.clock import Clock
from app.supervisor.heartbeat import Heartbeat
from app.supervisor.restart_counts import RestartCounts, RestartReason
from app.supervisor.restarts import Restarts
from app.supervisor.simulator import SimulatorProcess

_log = logging.getLogger(__name__)


class Part(Protocol):
    @property
    def name(self) -> str: ...

    def restart(self) -> None:
        """Raises GreenLangError if it does not start."""
        ...

    def death(self) -> str | None:
        """How the part ended; None while it is alive."""
        ...


class Stores:
    """The stores restart on the same ports, so every server process finds them again."""

    name = "the private stores"

    def __init__(self, launch: Callable[[], PrivateStores]) -> None:
        self._launch = launch
        self.running = launch()

    def restart(self) -> None:
        self.running.close_pipes()
        self.running = self._launch()
        self.running.wait()

    def death(self) -> str | None:
        return _exit_status(self.running.store_supervisor.poll())


class Simulator:
    name = "the simulator"

    def __init__(self, launch: Callable[[int], SimulatorProcess]) -> None:
        self._launch = launch
        self._port = 0
        self.running = launch(self._port)

    def wait(self) -> str:
        """Returns its address when it answers. After that it keeps its port. Raises SimulatorFailed."""
        address = self.running.wait()
        self._port = urlsplit(address).port or 0
        return address

    def restart(self) -> None:
        self.running.stop()
        self.running = self._launch(self._port)
        self.running.wait()

    def death(self) -> str | None:
        return _exit_status(self.running.process.poll())


class Server:
    """A process whose event loop is silent for `stuck_after` is killed, and then restarted like one that died."""

    def __init__(self, number: int, fork: Callable[[Heartbeat], ForkProcess], counts: RestartCounts, stuck_after: float) -> None:
        self.name = f"server process {number}"
        self._fork = fork
        self._counts = counts
        self._stuck_after = stuck_after
        self._heartbeat = Heartbeat()
        self._is_stuck = False
        self.running = fork(self._heartbeat)

    def restart(self) -> None:
        self._counts.add(RestartReason.STUCK if self._is_stuck else RestartReason.DIED)
        self._is_stuck = False
        self.running.close()
        self._heartbeat.restart()
        self.running = self._fork(self._heartbeat)

    def death(self) -> str | None:
        return _exit_status(self.running.exitcode)

    def kill_if_stuck(self, passed_seconds: float) -> None:
        """`passed_seconds`: since the last call."""
        silent = self._heartbeat.silence(passed_seconds)
        if silent < self._stuck_after or self._is_stuck:
            return
        self._is_stuck = True
        _log.error("the event loop is stuck: killed", extra={"part": self.name, "silent_seconds": round(silent, 1)})
        self.running.kill()


class SupervisedParts:
    def __init__(self, parts: Sequence[Part], clock: Clock) -> None:
        self._parts = [(part, Restarts(clock)) for part in parts]
        for _, restarts in self._parts:
            restarts.started()

    def restart_dead(self) -> None:
        """Restarts the parts that died and are due. A part that does not start is tried again later."""
        for part, restarts in self._parts:
            death = part.death()
            if death is None:
                continue
            restarts.died()
            if not restarts.due:
                continue
            _log.error("starting again", extra={"part": part.name, "death": death})
            restarts.started()
            try:
                part.restart()
            except GreenLangError as error:
                _log.error("does not start", extra={"part": part.name, "reason": str(error)})


def _exit_status(code: int | None) -> str | None:
    if code is None:
        return None
    return f"signal {-code}" if code < 0 else f"exit status {code}"
