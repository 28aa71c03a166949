"""Starts the simulator of Pinecone as a process of its own, for tests and benchmarks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import msgspec

from simulator.pinecone.records import Visibility
from simulator.pinecone.server import Entry, Fault

_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class RunningPinecone:
    address: str
    pid: int

    def fail(self, fault: Fault) -> None:
        self._call("PUT", "fault", msgspec.json.encode(fault))

    def reset_fault(self) -> None:
        self._call("DELETE", "fault")

    def show_writes(self, *, held: bool = False, delay_ms: float = 0.0) -> None:
        """From now on, what is written can be read after the delay, or, if held, not before the next call."""
        self._call("PUT", "visibility", msgspec.json.encode(Visibility(delay_ms, held)))

    def log(self) -> list[Entry]:
        return msgspec.json.decode(self._call("GET", "log"), type=list[Entry])

    def state(self) -> dict[str, dict[str, dict[str, dict[str, object]]]]:
        """Metadata by index, namespace and id."""
        return msgspec.json.decode(self._call("GET", "state"), type=dict[str, dict[str, dict[str, dict[str, object]]]])

    def reset(self) -> None:
        self.show_writes()
        for what in ("fault", "log", "state"):
            self._call("DELETE", what)

    def _call(self, method: str, what: str, body: bytes | None = None) -> bytes:
        with urlopen(Request(f"{self.address}/_simulator/{what}", data=body, method=method), timeout=10) as answer:
            content: bytes = answer.read()
            return content


@contextmanager
def start_pinecone(*flags: str) -> Iterator[RunningPinecone]:
    """`flags` are those of `python -m simulator.pinecone`. It ends with the block, and with this process."""
    command = [sys.executable, "-m", "simulator.pinecone", "--exit-with-stdin", *flags]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            ready = json.loads(process.stdout.readline())
            yield RunningPinecone(ready["address"], ready["pid"])
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
