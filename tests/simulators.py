"""Starts the simulator as a process of its own, for tests, drills and benchmarks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.request import Request, urlopen

import msgspec

from simulator.attempts import Entry, Totals, fingerprint
from simulator.models import ProviderName
from simulator.structured import Json

_ROOT = Path(__file__).parents[1]
_TIMEOUT_SECONDS = 15.0

StepFields: TypeAlias = "dict[str, Json]"


class _Page(msgspec.Struct):
    entries: list[Entry]
    last: int


@dataclass(frozen=True, slots=True)
class RunningSimulator:
    """A simulator that answers at `anthropic_url` and `openai_url` (base URLs for the SDKs)."""

    address: str
    anthropic_url: str
    openai_url: str
    pid: int
    log_file: Path | None = None

    def post(self, *steps: StepFields | str, replace: bool = False) -> None:
        """Queues faults: fields of `simulator.faults.Step`, or names of its presets."""
        self._call("POST", "scenario", {"steps": [*steps], "replace": replace})

    def clear_scenario(self) -> None:
        self._call("DELETE", "scenario")

    def log(self, after: int = 0) -> list[Entry]:
        """Every attempt since, open ones too, the oldest first."""
        return msgspec.json.decode(self._call("GET", f"log?after={after}"), type=_Page).entries

    def ended(self, count: int, *, after: int = 0) -> list[Entry]:
        """Waits until so many attempts have ended. Raises TimeoutError after 15 s."""
        return self._wait(lambda entry: entry.state != "open", count, after)

    def seen(self, count: int, *, after: int = 0) -> list[Entry]:
        """Waits until so many attempts have arrived, ended or not. Raises TimeoutError after 15 s."""
        return self._wait(lambda _entry: True, count, after)

    def _wait(self, counts: Callable[[Entry], bool], count: int, after: int) -> list[Entry]:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            entries = [entry for entry in self.log(after) if counts(entry)]
            if len(entries) >= count:
                return entries
            time.sleep(0.01)
        raise TimeoutError(f"the simulator saw {[(entry.sequence, entry.state) for entry in self.log(after)]}")

    def usage(self) -> dict[str, dict[str, Totals]]:
        """Totals by provider and model."""
        return msgspec.json.decode(self._call("GET", "usage"), type=dict[str, dict[str, Totals]])

    def limit(
        self,
        provider: ProviderName,
        *,
        requests_per_minute: int = 10_000_000,
        tokens_per_minute: int = 10_000_000_000,
        enforce: bool = True,
    ) -> None:
        limits: Json = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute, "enforce": enforce}
        self._call("PUT", "limits", {"provider": provider, "limits": limits})

    def refuse_keys(self, *secrets: str) -> None:
        """From now on these keys of providers are refused with 401, and there is no other fault."""
        steps: list[StepFields] = [
            {"fault": "status", "status": 401, "key": fingerprint(secret), "count": None} for secret in secrets
        ]
        self.post(*steps, replace=True)

    def reset(self) -> None:
        """Back to a fresh simulator: no faults, an empty log and cache, generous limits."""
        for what in ("scenario", "log", "cache"):
            self._call("DELETE", what)
        for provider in ("anthropic", "openai"):
            self._call("PUT", "limits", {"provider": provider, "limits": {}})

    def _call(self, method: str, what: str, body: Json = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(f"{self.address}/_simulator/{what}", data=data, method=method), timeout=10) as answer:
            content: bytes = answer.read()
            return content


@contextmanager
def start_simulator(*flags: str, log: Path | None = None) -> Iterator[RunningSimulator]:
    """`flags` are those of `python -m simulator`. It ends with the block, and with this process."""
    command = [sys.executable, "-m", "simulator", "--exit-with-stdin", *flags]
    if log is not None:
        command += ["--log", str(log)]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            ready = json.loads(process.stdout.readline())
            yield RunningSimulator(ready["address"], ready["anthropic"], ready["openai"], ready["pid"], log)
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
