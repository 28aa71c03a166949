"""Row 1 of `benchmarks.cache`: the CPU of a `completionCreate` from the memory tier, to the same call without the cache.

The product runs as a new user starts it, with the simulator. Rounds of hits and of calls without the cache alternate. The CPU
is that of the server processes, without the stores, the simulator and the client.
"""

from __future__ import annotations

import http.client
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from benchmarks.neighbours import OK, exchange
from benchmarks.product import Product, running

ROUNDS = 7
CALLS = 400
CALLERS = 4
PROMPT = "Explain in one paragraph how a cache decides what to keep. " * 4
CREATE = """
mutation Ask($input: CompletionInput!) {
  completionCreate(input: $input) {
    __typename
    ... on Completion { id text costUsd cacheKey cache { tier ageSeconds savedUsd } }
    ... on Problem { code message }
  }
}"""


@dataclass(slots=True)
class Measured:
    """Of each round: CPU milliseconds of the server a call, and all times of calls in milliseconds."""

    cpu_ms: list[float] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)

    @property
    def cpu(self) -> float:
        return statistics.median(self.cpu_ms)

    def show(self, name: str) -> None:
        p50, p95 = statistics.median(self.times_ms), statistics.quantiles(self.times_ms, n=20)[-1]
        print(f"    {name}: {self.cpu:.3f} ms of server CPU a call; p50 {p50:.2f} ms, p95 {p95:.2f} ms (not judged)")


def ask(connection: http.client.HTTPConnection, key: str, mode: str) -> tuple[float, str | None]:
    """Returns the milliseconds of one call, and the tier that answered. Exits if it failed."""
    given = {"messages": [{"role": "USER", "text": PROMPT}], "maxOutputTokens": 200, "cache": {"mode": mode}}
    started = time.perf_counter()
    status, answer = exchange(connection, key, CREATE, {"input": given})
    passed = (time.perf_counter() - started) * 1000
    found = json.loads(answer)
    made = (found.get("data") or {}).get("completionCreate") or {}
    if status != OK or made.get("__typename") != "Completion":
        raise SystemExit(f"a call failed: {status} {answer[:500]!r}")
    return passed, made["cache"] and made["cache"]["tier"]


def run_round(product: Product, callers: ThreadPoolExecutor, mode: str, measured: Measured) -> None:
    tier = "MEMORY" if mode == "USE" else None

    def caller(_: int) -> list[tuple[float, str | None]]:
        connection = http.client.HTTPConnection(product.host, product.port, timeout=60)
        found = [ask(connection, product.key, mode) for _ in range(CALLS // CALLERS)]
        connection.close()
        return found

    before = product.cpu_seconds()
    answers = [answer for each in callers.map(caller, range(CALLERS)) for answer in each]
    measured.cpu_ms.append((product.cpu_seconds() - before) * 1000 / len(answers))
    measured.times_ms += [passed for passed, _ in answers]
    if wrong := [found for _, found in answers if found != tier]:
        raise SystemExit(f"{len(wrong)} of {len(answers)} calls were answered by {wrong[0]}, not by {tier}")


def measure(prepare: Callable[[Product], None] = lambda _: None) -> float:
    """Returns the ratio and prints both sides."""
    settings = {"GREENLANG_CACHE__MEMORY__TTL": "1h", "GREENLANG_SERVER__WORKERS": "1"}
    with running(settings) as product, ThreadPoolExecutor(CALLERS) as callers:
        prepare(product)
        connection = http.client.HTTPConnection(product.host, product.port, timeout=60)
        for mode in ("USE", "OFF") * 50:
            ask(connection, product.key, mode)
        connection.close()
        hits, calls = Measured(), Measured()
        for _ in range(ROUNDS):
            run_round(product, callers, "USE", hits)
            run_round(product, callers, "OFF", calls)
    hits.show("from memory")
    calls.show("without the cache")
    return hits.cpu / calls.cpu


if __name__ == "__main__":
    print(f"ratio {measure():.3f}")
