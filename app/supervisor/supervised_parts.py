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
    def __init__(self, number: int, fork: Callable[[], ForkProcess]) -> None:
        self.name = f"server process {number}"
        self._fork = fork
        self.running = fork()

    def restart(self) -> None:
        self.running.close()
        self.running = self._fork()

    def death(self) -> str | None:
        return _exit_status(self.running.exitcode)


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
