"""10,000 agents at once on two server processes, against a slow simulator: is each one answered, and does one cost more than
when there are 1,000?

    python -m benchmarks.agents [--agents 10000] [--few 1000]

Each agent has a WebSocket with a stream or a mutation (`agent_sockets.py`, a process of its own). Every run has a fresh server
that has warmed up. Exit status 1 if an agent gets no answer, if memory or CPU per agent is more than 1.2 times that of the run
with few agents, or if a probe of `/healthz` in that run is later than the manifests allow. Times are the queue of the machine's
processors, so they are only printed.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import urlsplit

import msgspec
import psutil

from app.access.key_rows import NewKey
from app.access.keys import KeyStore
from app.access.principal import Scope
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings
from benchmarks.agent_sockets import Seen
from benchmarks.streams import cpu_seconds, resident
from tests.servers import ROOT, RunningServer, start_server
from tests.simulators import RunningSimulator, start_simulator

MAX_RATIO = 1.2
WARM_UP_AGENTS = 20
TENANTS = 20
PROBE_EVERY_SECONDS = 0.25
REST_SECONDS = 5.0
LOG_CHARACTERS = 4000
LATENCY_MS, TOKENS_PER_SECOND = 5000, 2
_MANIFEST = ROOT / "k8s" / "base" / "deployment.yaml"
_CONFIGURATION = """
[server]
workers = 2
[limits]
sockets_per_key = 100000
allowance_capacity = 10000000
allowance_per_second = 1000000.0
[[providers]]
name = "openai"
kind = "openai"
base_url = "{url}"
api_keys = [{{ env = "AGENTS_KEY" }}]
models = ["gpt-5.4-mini"]
pool_size = 10000
timeouts = {{ connect = "300s", first_token = "600s", idle = "600s" }}
limits = {{ requests_per_minute = 10000000, tokens_per_minute = 1000000000 }}
[[routes]]
name = "default"
targets = ["openai/gpt-5.4-mini"]
"""


def probe_timeout() -> float:
    """The manifests' `timeoutSeconds` of the liveness probe."""
    found = re.search(r"livenessProbe:.*?timeoutSeconds: (\d+)", _MANIFEST.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None, f"{_MANIFEST} has no liveness probe"
    return float(found[1])


@dataclass(slots=True)
class Prober:
    """Asks for `/healthz` on a new connection each time, as a kubelet does."""

    host: str
    timeout: float
    seconds: list[float] = field(default_factory=list)
    late: int = 0

    def probe(self) -> None:
        begun = time.monotonic()
        connection = http.client.HTTPConnection(self.host, timeout=120)
        try:
            connection.request("GET", "/healthz")
            is_good = connection.getresponse().status == http.HTTPStatus.OK
        except OSError:
            is_good = False
        finally:
            connection.close()
        self.seconds.append(time.monotonic() - begun)
        self.late += not is_good or self.seconds[-1] > self.timeout


@dataclass(slots=True)
class Figures:
    """Bytes and seconds are those of the server processes alone. `late_ms`: what each caller waited longer than the simulator
    took."""

    agents: int
    seen: Seen
    seconds: float
    idle_bytes: float
    busy_bytes: float
    cpu: float
    late_ms: list[float]
    probes: list[float]
    late_probes: int
    replaced: int
    """Server processes that died in the run."""

    @property
    def overhead_ms(self) -> list[float]:
        return [each.overhead_ms for each in self.seen.answered if each.overhead_ms is not None]

    def show(self) -> None:
        print(f"\n{self.agents} agents: {len(self.seen.answered)} answered in {self.seconds:.1f} s")
        print(f"  OVERLOADED {self.seen.overloaded} times; without an answer: {self.seen.failures or 'none'}")
        print(f"  memory: {self.idle_bytes / 1000:.1f} kB a socket, {self.busy_bytes / 1000:.1f} kB an agent at the height")
        print(f"  CPU: {self.cpu * 1000:.2f} ms a call")
        for name, values in (("overheadMs", self.overhead_ms), ("longer than the simulator", self.late_ms)):
            if len(values) > 1:
                found = quantiles(values, n=20)
                print(f"  {name}: P50 {found[9]:.0f} ms, P95 {found[18]:.0f} ms")
        print(
            f"  /healthz: median {median(self.probes) * 1000:.1f} ms, slowest {max(self.probes) * 1000:.0f} ms,"
            f" {self.late_probes} of {len(self.probes)} late; {self.replaced} processes replaced",
            flush=True,
        )


@contextmanager
def load(server: RunningServer, agents: int, keys: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The sockets are open inside the block."""
    port = urlsplit(server.address).port
    command = [sys.executable, "-m", "benchmarks.agent_sockets", str(agents), str(port), *keys]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            if process.stdout.readline() != "open\n":
                raise SystemExit("the sockets were not opened")
            yield process
        finally:
            process.stdin.close()
            process.wait(60)


def ask_all(process: subprocess.Popen[str]) -> Seen:
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise SystemExit("not every agent had an end in time")
    return msgspec.json.decode(line, type=Seen)


def measure(agents: int, timeout: float) -> Figures:
    with tempfile.TemporaryDirectory() as folder, started(Path(folder)) as (server, simulator):
        keys = asyncio.run(make_keys(server))
        with load(server, WARM_UP_AGENTS, keys) as process:
            ask_all(process)
        time.sleep(REST_SECONDS)
        before, processes = resident(server), server.servers
        with load(server, agents, keys) as process:
            time.sleep(REST_SECONDS)
            idle = resident(server) - before
            prober, stop, heights = Prober(urlsplit(server.address).netloc, timeout), threading.Event(), [idle]

            def watch() -> None:
                while not stop.wait(PROBE_EVERY_SECONDS):
                    prober.probe()
                    heights.append(resident(server) - before)

            watching = threading.Thread(target=watch)
            cpu, begun = cpu_of(processes), time.monotonic()
            watching.start()
            seen = ask_all(process)
            seconds, cpu = time.monotonic() - begun, cpu_of(processes) - cpu
            stop.set()
            watching.join()
        replaced = len({each.pid for each in processes} - {each.pid for each in server.servers})
        if replaced:
            print((Path(folder) / "log").read_text(encoding="utf-8")[-LOG_CHARACTERS:])
        took = {entry.request_id: entry.duration_ms for entry in simulator.log()}
    late = [each.waited_ms - took[each.request_id] for each in seen.answered if each.request_id in took]
    return Figures(
        agents,
        seen,
        seconds,
        idle / agents,
        max(heights) / agents,
        cpu / max(1, len(seen.answered)),
        late,
        prober.seconds,
        prober.late,
        replaced,
    )


def cpu_of(processes: list[psutil.Process]) -> float:
    return sum(map(cpu_seconds, processes))


@contextmanager
def started(folder: Path) -> Iterator[tuple[RunningServer, RunningSimulator]]:
    os.environ["AGENTS_KEY"] = "sk-simulated"
    with start_simulator("--latency-ms", str(LATENCY_MS), "--tokens-per-second", str(TOKENS_PER_SECOND)) as simulator:
        config = folder / "greenlang.toml"
        config.write_text(_CONFIGURATION.format(url=simulator.openai_url), encoding="utf-8")
        with start_server(folder / "data", "--config", str(config), log=folder / "log") as server:
            yield server, simulator


async def make_keys(server: RunningServer) -> list[str]:
    """Of many tenants, because one may not have all places of a process."""
    url = (server.data_dir / "database.url").read_text(encoding="utf-8").strip()
    engines = build_engines(url, (), DatabaseSettings())
    try:
        keys = KeyStore(Sessions(engines), SystemClock())
        made = [NewKey("agents", f"tenant-{number}", frozenset({Scope.COMPLETIONS})) for number in range(TENANTS)]
        return [(await keys.create(each)).secret for each in made]
    finally:
        await engines.close()


def is_good(few: Figures, many: Figures) -> bool:
    """Prints the ratios."""
    bounded = {
        "memory a socket": many.idle_bytes / few.idle_bytes,
        "memory an agent": many.busy_bytes / few.busy_bytes,
        "CPU a call": many.cpu / few.cpu,
    }
    printed: dict[str, float] = {}
    for name in ("overhead_ms", "late_ms"):
        of_few, of_many = (quantiles(getattr(each, name), n=20) for each in (few, many))
        printed |= {f"{name} P50": of_many[9] / of_few[9], f"{name} P95": of_many[18] / of_few[18]}
    print(f"\n{many.agents} agents to {few.agents}:")
    for name, ratio in (bounded | printed).items():
        bound = f" (at most {MAX_RATIO})" if name in bounded else ""
        print(f"  {name}: {ratio:.2f}{bound}")
    answered = all(len(each.seen.answered) == each.agents for each in (few, many))
    return answered and not few.replaced + many.replaced and max(bounded.values()) <= MAX_RATIO and not few.late_probes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=10_000)
    parser.add_argument("--few", type=int, default=1_000)
    options = parser.parse_args()
    timeout = probe_timeout()
    print(f"a probe may take {timeout:.0f} s")
    figures = []
    for agents in (options.few, options.agents):
        figures.append(measure(agents, timeout))
        figures[-1].show()
    good = is_good(*figures)
    print("good" if good else "NOT good")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
