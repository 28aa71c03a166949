"""The product itself, started as a stranger would: `greenlang serve` on a fresh data directory and a free port."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import environ
from pathlib import Path

import psutil

_STARTED = re.compile(r"serves on http://([\d.]+):(\d+)")
_KEY_FILE = re.compile(r"key\s+is in (.+)\n +administrator")
_START_SECONDS = 60
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Product:
    host: str
    port: int
    key: str
    process: psutil.Process

    def resident_bytes(self) -> int:
        """Of the server's own processes, without the stores and the simulator."""
        found = 0
        for process in (self.process, *self.process.children(recursive=True)):
            try:
                if "serve" in process.cmdline():
                    found += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return found


@contextmanager
def running(overrides: Mapping[str, str] | None = None) -> Iterator[Product]:
    """`overrides` are settings as in the environment: `GREENLANG_SECTION__KEY`."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "app.cli", "serve", "--port", "0", "--data-dir", f"{folder}/data"]
        with log.open("w") as out:
            process = subprocess.Popen(command, cwd=_ROOT, stdout=out, stderr=out, env={**environ, **(overrides or {})})
        try:
            yield _await_start(log, process)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _await_start(log: Path, process: subprocess.Popen[bytes]) -> Product:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        text = log.read_text()
        started, key = _STARTED.search(text), _KEY_FILE.search(text)
        if started is not None and key is not None:
            return Product(started[1], int(started[2]), Path(key[1]).read_text().strip(), psutil.Process(process.pid))
        time.sleep(0.05)
    raise SystemExit(f"the server did not start:\n{log.read_text()}")
