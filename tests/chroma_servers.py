"""Starts real Chroma servers, for tests and benchmarks."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from app.embedded.parent_death import parent_death_setter

_START_SECONDS = 60.0
_PROGRAM = "import sys, chromadb_rust_bindings as chroma; chroma.cli(['chroma', *sys.argv[1:]])"


@dataclass(slots=True)
class ChromaServer:
    """A server with a folder. It keeps its port when it is started again."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, folder: Path) -> ChromaServer:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        return cls(folder, port, _launched(folder, port))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        self.process = _launched(self.folder, self.port)


def _launched(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Returns when it answers."""
    command = [sys.executable, "-c", _PROGRAM, "run", "--path", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=parent_death_setter(signal.SIGKILL),  # noqa: PLW1509 - before any thread of the test
    )
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urlopen(f"http://127.0.0.1:{port}/api/v2/heartbeat", timeout=1):
                return process
        except (URLError, OSError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise TimeoutError("Chroma does not start") from error
            time.sleep(0.05)


@contextmanager
def start_chroma(folder: Path) -> Iterator[ChromaServer]:
    server = ChromaServer.start(folder)
    try:
        yield server
    finally:
        server.kill()
