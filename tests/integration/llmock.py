"""PyPI's `llmock`, a mock of the providers that others wrote: installed into an environment of its own, and every fault it can
inject. It keeps a journal of what it was asked and gives a verdict on its client's behaviour: here, on ours.

What llmock injects for ever is left out where its verdict only looks at the last attempt: after a truncated or malformed stream
no client could be judged well. Two failures before an answer are left out where our own backoff comes between them: now and then
chance makes two of its pauses alike, and the verdict is that they do not grow.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias
from urllib.request import Request, urlopen

from tests.npm import lacking
from tests.servers import ROOT

Json: TypeAlias = "dict[str, Any]"  # what llmock takes and tells

FAMILIES = ("anthropic", "openai")
ANSWER = " ".join(f"word{number}" for number in range(20))
CONTEXT_TOKENS = 2_000
_AWAY = ("No matching distribution", "Connection", "Temporary failure", "Could not fetch", "Network is unreachable")
_ADDRESS = re.compile(r"running on (http://\S+)")


def _fail(status: int, times: int | None = 1, **fields: Any) -> Json:
    return {"type": "fail", "status": status, "times": times, **fields}


def _stream_fault(kind: str, after: int, times: int | None = 1) -> Json:
    return {"type": "stream_fault", "kind": kind, "after_chunks": after, "stall_seconds": 4, "times": times}


UNSEEN, SHOWN = 1, 7
"""Chunks before a fault: none of the answer's words, and some in both protocols."""
RETRYABLE_ONCE = (408, 409, 429, 500, 501, 502, 503, 504, 529)
REFUSED = (400, 404, 413, 418, 422)
KEY_REFUSED = (401, 402, 403)
"""Each with a provider of its own, because it makes a provider's key unusable for a while."""
FOR_EVER = (429, 500, 501, 503, 529)

FAULTS: Mapping[str, Sequence[Json]] = MappingProxyType(
    {
        "none": [],
        **{f"{status}-once": [_fail(status)] for status in (*RETRYABLE_ONCE, *REFUSED, *KEY_REFUSED)},
        **{f"{status}-for-ever": [_fail(status, None)] for status in FOR_EVER},
        "429-after-300-ms": [_fail(429, retry_after=0.3)],
        "429-after-2-s-twice": [_fail(429, 2, retry_after=2)],
        "503-then-429": [_fail(503), _fail(429)],
        "context-too-long": [],
        "late": [{"type": "delay", "seconds": 0.3}],
        "silent": [{"type": "delay", "seconds": 4, "times": None}],
        "malformed-arguments": [{"type": "tool_fault", "kind": "malformed_arguments"}],
        "unknown-tool": [{"type": "tool_fault", "kind": "unknown_tool"}],
    }
)
STREAM_FAULTS: Mapping[str, Sequence[Json]] = MappingProxyType(
    {
        "first-token-late": [{"type": "slow_first_token", "seconds": 0.3}],
        "first-token-never": [{"type": "slow_first_token", "seconds": 4, "times": None}],
        **{
            f"{kind}-{name}-{often}": [_stream_fault(kind, after, times)]
            for kind, (name, after), (often, times) in product(
                ("disconnect", "truncate", "malformed", "stall"),
                (("unseen", UNSEEN), ("shown", SHOWN)),
                (("once", 1), ("twice", 2), ("for-ever", None)),
            )
            if (times != 2 or name == "shown") and (times is not None or kind in {"disconnect", "stall"})
        },
    }
)


@dataclass(frozen=True)
class Case:
    fault: str
    family: str
    streamed: bool

    @property
    def model(self) -> str:
        return f"{self.fault}-{'stream' if self.streamed else 'whole'}"

    @property
    def provider(self) -> str:
        """Its name in the configuration."""
        own = self.fault.removesuffix("-once") in map(str, KEY_REFUSED)
        return f"{self.family}-{self.model}" if own else self.family

    @property
    def name(self) -> str:
        return f"{self.family}-{self.model}"

    @property
    def behaviors(self) -> list[Json]:
        match = {"provider": self.family, "model": self.model}
        found: list[Json] = [
            {**each, "match": match} for each in (*FAULTS.get(self.fault, ()), *STREAM_FAULTS.get(self.fault, ()))
        ]
        if not any(each["type"] == "tool_fault" for each in found):
            found.append({"type": "reply", "text": ANSWER, "times": None, "match": match})
        return found


CASES = (
    *(Case(fault, family, streamed) for fault, family, streamed in product(FAULTS, FAMILIES, (False, True))),
    *(Case(fault, family, streamed=True) for fault, family in product(STREAM_FAULTS, FAMILIES)),
)


@dataclass(frozen=True)
class RunningMock:
    address: str

    def base_url(self, family: str) -> str:
        return f"{self.address}/{'anthropic' if family == 'anthropic' else 'v1'}"

    def script(self, behaviors: Sequence[Json]) -> None:
        self._call("POST", "scenario", {"behaviors": [*behaviors]})

    def requests(self) -> list[Json]:
        found: list[Json] = self._call("GET", "requests")["requests"]
        return found

    def verdict(self) -> Json:
        return self._call("GET", "verdict")

    def _call(self, method: str, what: str, body: Json | None = None) -> Json:
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(f"{self.address}/_llmock/{what}", data=data, method=method), timeout=30) as answer:
            content: Json = json.load(answer)
            return content


def install(folder: Path) -> Path:
    """The program, in an environment of its own with the versions of requirements/llmock.txt."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    wanted = ROOT / "requirements" / "llmock.txt"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        str(python),
        "install",
        "--quiet",
        "-r",
        str(wanted),
    ]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode and any(reason in done.stderr for reason in _AWAY):
        lacking("needs PyPI's llmock, and could not install it")
    assert done.returncode == 0, done.stderr
    return folder / "bin" / "llmock"


@contextmanager
def start(program: Path, *arguments: str) -> Iterator[RunningMock]:
    command = [str(program), "serve", "--host", "127.0.0.1", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            found = next(filter(None, map(_ADDRESS.search, process.stderr)))
            yield RunningMock(found[1])
        finally:
            process.terminate()


def configuration(mock: RunningMock, cases: Sequence[Case]) -> str:
    """A greenlang.toml whose providers are all llmock; times are short, and retries not limited by their budget."""
    models: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        models.setdefault((case.provider, case.family), []).append(case.model)
    tables = [
        f'''
[[providers]]
name = "{name}"
kind = "{family}"
base_url = "{mock.base_url(family)}"
api_keys = [{{ env = "LLMOCK_KEY" }}]
models = {json.dumps(names)}
[providers.limits]
requests_per_minute = 1000000
tokens_per_minute = 1000000000
[providers.timeouts]
first_token = "1s"
idle = "500ms"
total = "30s"
[providers.retry]
first_delay = "200ms"
max_delay = "1600ms"
budget_per_second = 1000.0
'''
        for (name, family), names in models.items()
    ]
    return "".join(tables) + f'[[routes]]\nname = "default"\ntargets = ["{cases[0].provider}/{cases[0].model}"]\n'
