"""The heartbeat of a server process: its event loop writes a byte into a pipe in each turn that comes a tenth of a second after
the one before, and the supervisor reads it. A loop that is so busy that a turn takes a second still beats once in each.

Silence counts only while the supervisor itself runs: after the machine slept or stood still, a server process has its full time
again. A process that has not yet begun to beat is still starting.
"""

from __future__ import annotations

import os
from contextlib import suppress

MAX_STEP_SECONDS = 1.0
"""What one look may count at most. The supervisor looks more often, unless it did not run."""

_READ_BYTES = 4096


class Heartbeat:
    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._begun = False
        self._silent_seconds = 0.0

    def beat(self) -> None:
        """Called by the event loop of the server process. Never blocks."""
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(self._write, b"1")

    def silence(self, passed_seconds: float) -> float:
        """Returns for how long the process has been silent. `passed_seconds`: the time since the last look."""
        try:
            heard = bool(os.read(self._read, _READ_BYTES))
        except BlockingIOError:
            heard = False
        if heard:
            self._begun, self._silent_seconds = True, 0.0
        elif self._begun:
            self._silent_seconds += min(passed_seconds, MAX_STEP_SECONDS)
        return self._silent_seconds

    def restart(self) -> None:
        """Forgets the process before."""
        self.silence(0.0)
        self._begun, self._silent_seconds = False, 0.0
