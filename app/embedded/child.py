"""The process of a store, and how its parent runs it. When the parent dies, for any reason, the system sends the process its
`stop_signal`."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.domain.errors import GreenLangError
from app.embedded.parent_death import parent_death_setter

_MAX_LOG_BYTES = 16 * 1024 * 1024
_LAST_LINES = 5


class StoreFailed(GreenLangError):
    """A store that does not start. The message ends with its last output."""


@dataclass(frozen=True, slots=True)
class Child:
    """`stop_signal` requests an orderly stop."""

    process: subprocess.Popen[bytes]
    stop_signal: signal.Signals
    log: Path
    log_start: int

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Raises StoreFailed if the process ends or the time is over before `ready()` is true."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.process.poll() is not None:
                raise StoreFailed(self._last_words())
            if time.monotonic() > deadline:
                raise StoreFailed(f"not ready within {seconds:g} s: {self._last_words()}")
            time.sleep(0.01)

    def stop(self, seconds: float) -> None:
        """Stops in order within `seconds`, else by force."""
        for sign, wait_seconds in ((self.stop_signal, seconds), (signal.SIGQUIT, 2.0), (signal.SIGKILL, 5.0)):
            with suppress(ProcessLookupError):
                self.process.send_signal(sign)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(wait_seconds)
                return

    def _last_words(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self.log_start)
            lines = file.read().decode(errors="replace").strip().splitlines()
        return " | ".join(lines[-_LAST_LINES:])


def start_child(command: Sequence[str | Path], folder: Path, log: Path, stop_signal: signal.Signals, lock: int) -> Child:
    """`folder` becomes the working directory. `lock` is a descriptor that stays locked as long as a process of the store is
    alive."""
    log.parent.mkdir(mode=0o700, exist_ok=True)
    if log.is_file() and log.stat().st_size > _MAX_LOG_BYTES:
        log.replace(log.with_suffix(".old.log"))
    with log.open("ab") as output:
        start = output.tell()
        process = subprocess.Popen(  # noqa: S603 - the command is built from programs that this package found
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(lock,),
            preexec_fn=parent_death_setter(stop_signal),  # noqa: PLW1509 - its parent has one thread
        )
    return Child(process, stop_signal, log, start)
