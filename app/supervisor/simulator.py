"""The simulator as a separate process. It ends with the pipe that its launcher and the launcher's forks hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from app.domain.errors import GreenLangError

_SOURCE = Path(__file__).resolve().parents[2]
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
_STOP_SECONDS = 5.0


def simulate(host: str, port: int, log: Path | None) -> NoReturn:
    """Becomes the simulator. Port 0 takes a free one."""
    command = [sys.executable, "-m", "simulator", "--host", host, "--port", str(port), *(["--log", str(log)] if log else [])]
    os.execve(sys.executable, command, os.environ | {"PYTHONPATH": str(_SOURCE)})  # noqa: S606 - our own module


class SimulatorFailed(GreenLangError):
    pass


@dataclass(frozen=True, slots=True)
class SimulatorProcess:
    """Create it with `launch`."""

    process: subprocess.Popen[str]

    @classmethod
    def launch(cls, log: Path, port: int = 0) -> SimulatorProcess:
        """Returns while it starts. Port 0 takes a free one."""
        command = [sys.executable, "-m", "simulator", "--port", str(port), "--log", str(log), "--exit-with-stdin"]
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        return cls(
            subprocess.Popen(  # noqa: S603 - our own module
                command,
                env=environment | {"PYTHONPATH": str(_SOURCE)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )

    def wait(self) -> str:
        """Returns its address, `http://host:port`, when it answers. Raises SimulatorFailed."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SimulatorFailed(f"the simulator does not start (exit status {self.process.wait()})")
        address = json.loads(line)["address"]
        assert isinstance(address, str)
        return address

    def stop(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
