"""The product itself, started as a new user would: `greenlang serve` on a fresh data directory and a free port."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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
    data_dir: Path

    def new_key(self, name: str, tenant: str, *scopes: str) -> str:
        """The secret of a key made by `greenlang keys create`."""
        command = [sys.executable, "-m", "app.cli", "keys", "create", name, "--tenant", tenant]
        command += [word for scope in scopes for word in ("--scope", scope)]
        made = subprocess.run([*command, "--data-dir", str(self.data_dir)], cwd=_ROOT, capture_output=True, text=True, check=True)
        return made.stdout.strip()

    def resident_bytes(self) -> int:
        """Of the server's own processes, without the stores and the simulator."""
        return sum(process.memory_info().rss for process in self._serving())

    def cpu_seconds(self) -> float:
        """Used so far by the server's own processes, without the stores and the simulator."""
        used = [process.cpu_times() for process in self._serving()]
        return sum(each.user + each.system for each in used)

    def _serving(self) -> list[psutil.Process]:
        found = []
        for process in (self.process, *self.process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                if "serve" in process.cmdline():
                    found.append(process)
        return found


@contextmanager
def running(overrides: Mapping[str, str] | None = None, open_files: int | None = None) -> Iterator[Product]:
    """`overrides` are settings as in the environment: `GREENLANG_SECTION__KEY`. `open_files`: what a process may have."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "app.cli", "serve", "--port", "0", "--data-dir", f"{folder}/data"]
        if open_files is not None:
            command = ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(open_files), *command]
        with log.open("w") as out:
            process = subprocess.Popen(command, cwd=_ROOT, stdout=out, stderr=out, env={**environ, **(overrides or {})})
        try:
            yield _await_start(log, process, Path(folder) / "data")
        finally:
            process.terminate()
            process.wait(timeout=30)


def _await_start(log: Path, process: subprocess.Popen[bytes], data_dir: Path) -> Product:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        text = log.read_text()
        started, key = _STARTED.search(text), _KEY_FILE.search(text)
        if started is not None and key is not None:
            secret = Path(key[1]).read_text().strip()
            return Product(started[1], int(started[2]), secret, psutil.Process(process.pid), data_dir)
        time.sleep(0.05)
    raise SystemExit(f"the server did not start:\n{log.read_text()}")
