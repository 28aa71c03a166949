"""Starts `greenlang serve` as its users do, for tests, drills and benchmarks: a process tree of its own, reached over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil

from tests.processes import command, wait_gone

ROOT = Path(__file__).parents[1]
_STOP_SECONDS = 40.0
_ADDRESS = re.compile(r"GreenLang serves on (\S+)")
_KEY_FILE = re.compile(r"  key         is in (.+)\n +administrator")


@dataclass(frozen=True, slots=True)
class RunningServer:
    """`key` is the administrator's; None if this start made none."""

    address: str
    key: str | None
    data_dir: Path
    process: subprocess.Popen[str]
    printed: str
    seconds_to_serve: float

    @property
    def url(self) -> str:
        return f"{self.address}/graphql"

    @property
    def simulator_log(self) -> list[dict[str, object]]:
        """Every attempt that the simulator has seen."""
        return [json.loads(line) for line in (self.data_dir / "simulator.jsonl").read_text().splitlines()]

    @property
    def servers(self) -> list[psutil.Process]:
        """The forked server processes."""
        parent = psutil.Process(self.process.pid)
        return [child for child in parent.children() if command(child) == parent.cmdline()]

    def stop(self) -> None:
        everything = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(_STOP_SECONDS)
        wait_gone(everything)


@contextmanager
def start_server(
    data_dir: Path, *arguments: str, environ: Mapping[str, str] | None = None, log: Path | None = None, root: Path = ROOT
) -> Iterator[RunningServer]:
    """Serves on a free port until the block ends; without provider keys in the environment a simulator answers. What it logs is
    appended to `log`. The source is that in `root`."""
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    begun = time.monotonic()
    with nullcontext() if log is None else log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve", "--port", "0", "--data-dir", str(data_dir), *arguments],
            cwd=root,
            env=inherited | dict(environ or {}),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        printed = _announcement(process)
        address, key = _ADDRESS.search(printed), _KEY_FILE.search(printed)
        assert address is not None, f"it did not serve: {printed}"
        server = RunningServer(
            address[1], Path(key[1]).read_text().strip() if key else None, data_dir, process, printed, time.monotonic() - begun
        )
        yield server
    finally:
        if process.poll() is None:
            everything = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            process.wait(_STOP_SECONDS)
            wait_gone(everything)
        if process.stdout is not None:
            process.stdout.close()


def _announcement(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("  data"):
            break
    return "".join(lines)


class Client:
    """A GraphQL client of one key, as an agent would write it."""

    def __init__(self, session: aiohttp.ClientSession, server: RunningServer, key: str) -> None:
        self._session = session
        self._url = server.url
        self._headers = {"Authorization": f"Bearer {key}"}

    async def execute(self, query: str, variables: Mapping[str, object] | None = None) -> dict[str, object]:
        """The `data` of an answer without errors; raises AssertionError with the errors of any other."""
        body = {"query": query, "variables": dict(variables or {})}
        async with self._session.post(self._url, json=body, headers=self._headers) as response:
            answer = await response.json(content_type=None)
        assert "errors" not in answer, answer
        data: dict[str, object] = answer["data"]
        return data
