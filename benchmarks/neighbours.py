"""One greedy key beside one ordinary caller, on the running product with the simulator: does the ordinary one notice?

    python -m benchmarks.neighbours

The greedy key holds all that it can get: slow calls with huge output caps, slow bodies, exports that it does not read, silent
sockets without a key, and idle connections with its key, where a process may have few open files. It burns no processor. The
ordinary caller of another tenant asks for completions and reads costs, every other time on a new connection, alone and beside the
greedy key in turn. Exit status 1 when one of its calls fails, when its p95 beside is more than three times what it is alone (the
median of five rounds), or when the greedy key held less than it should.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import multiprocessing
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from operator import ge
from urllib.parse import urlsplit

from benchmarks.product import Product, running

ROUNDS = 5
CALLS = 50
MAX_RATIO = 3.0
PLACES = 100
"""Of the product in this run: few, so that the greedy key needs few connections to take all it can get."""
HELD_CALLS = 0.7 * PLACES
HELD_BODIES = 50
SLOW_CALLS, CALL_GAP_SECONDS = 150, 0.02
SLOW_BODIES = 60
"""Fewer than the key may hold: the calls need places for their own bodies."""
SILENT_SOCKETS = 3_000
OPEN_FILES = 2_048
IDLE_CONNECTIONS = 1_500
"""With the silent sockets more than the product may have open."""
HELD_CONNECTIONS = 100
SLOW_READERS = 12
HELD_EXPORTS = 4
ROWS, ROWS_A_REQUEST, WRITERS = 2_400, 20, 12
CALL_SECONDS = 30
SETTLE_SECONDS = 2.0
OK, OVERLOADED = 200, 503
HUGE_CAP = 10_000_000
ALL_BUDGET_USD = 5_000
"""Over all tenants: pays for all that is held where caps are clipped, and for some 30 calls where they are not."""
COMPLETION = """
mutation($text: String!, $cap: Int, $timeout: Int) {
  completionCreate(input: {messages: [{role: USER, text: $text}], agent: "a", maxOutputTokens: $cap, timeoutMs: $timeout}) {
    __typename ... on Completion { problem { __typename } }
  }
}"""
IDLE = b"GET /graphql?query={__typename} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n\r\n"
COSTS = "query($f: CostFilter!) { costs(filter: $f) { totals { costUsd } } }"
BUDGET = """
mutation($limit: Decimal!) {
  budgetCreate(input: {name: "all", scope: {}, limitUsd: $limit}) { __typename ... on Problem { message } }
}"""
EXPORT = """
mutation($f: CostFilter!) {
  costExportCreate(input: {filter: $f, format: JSON_LINES}) { __typename ... on CostExport { url } ... on Problem { message } }
}"""


@dataclass(frozen=True, slots=True)
class Server:
    """Where it is and with which key to ask it; can be handed to another process."""

    host: str
    port: int
    key: str

    def head(self, length: int) -> bytes:
        return (
            f"POST /graphql HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.key}\r\ncontent-type: application/json\r\n"
            f"accept: application/graphql-response+json\r\ncontent-length: {length}\r\n\r\n"
        ).encode()

    def request(self, query: str, variables: object) -> bytes:
        body = json.dumps({"query": query, "variables": variables}).encode()
        return self.head(len(body)) + body

    def ask(self, query: str, variables: object = None) -> dict[str, dict[str, object]]:
        """The data of an answer without errors."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        status, answer = exchange(connection, self.key, query, variables)
        connection.close()
        if status != OK or b'"errors"' in answer:
            raise SystemExit(f"not prepared: {status} {answer[:500]!r}")
        found: dict[str, dict[str, object]] = json.loads(answer)["data"]
        return found


def exchange(connection: http.client.HTTPConnection, key: str, query: str, variables: object) -> tuple[int, bytes]:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    connection.request("POST", "/graphql", json.dumps({"query": query, "variables": variables}), headers)
    response = connection.getresponse()
    return response.status, response.read()


def all_time() -> dict[str, object]:
    now = datetime.now(UTC)
    return {"f": {"period": {"from": (now - timedelta(days=1)).isoformat(), "to": (now + timedelta(days=1)).isoformat()}}}


# ---------------------------------------------------------------------- the ordinary caller
@dataclass(slots=True)
class Seen:
    p95_ms: float
    failures: list[str]


def ordinary(server: Server) -> Seen:
    """CALLS completions and as many readings of costs, one after the other."""
    times, failures = list[float](), list[str]()
    kept = http.client.HTTPConnection(server.host, server.port, timeout=60)
    for number in range(CALLS):
        fresh = http.client.HTTPConnection(server.host, server.port, timeout=60)
        connection = fresh if number % 2 else kept
        started = time.perf_counter()
        for query, variables in ((COMPLETION, {"text": f"call {number}", "cap": 100}), (COSTS, all_time())):
            try:
                status, answer = exchange(connection, server.key, query, variables)
            except OSError as error:
                failures.append(repr(error))
                continue
            if status != OK or b'"errors"' in answer or (query == COMPLETION and b'"problem":null' not in answer):
                failures.append(f"{status} {answer[:200]!r}")
        times.append((time.perf_counter() - started) * 1000)
        fresh.close()
    kept.close()
    return Seen(statistics.quantiles(times, n=20)[-1], failures)


# ---------------------------------------------------------------------- the greedy key, in a process of its own
@dataclass(slots=True)
class Held:
    """Connections on which nothing has ended yet."""

    calls: int
    bodies: int
    exports: int
    silent: int
    idle: int

    @property
    def enough(self) -> bool:
        needed = (HELD_CALLS, HELD_BODIES, HELD_EXPORTS, HELD_CONNECTIONS)
        return all(map(ge, (self.calls, self.bodies, self.exports, self.idle), needed))


class Greedy:
    def __init__(self, server: Server, export: str) -> None:
        self._server = server
        self._export = export
        self._calls = list[socket.socket]()
        self._bodies = list[socket.socket]()
        self._exports = list[socket.socket]()
        self._silent = list[socket.socket]()
        self._idle = list[socket.socket]()

    async def take(self) -> None:
        call = {"text": "[[simulator fault=silent]]", "cap": HUGE_CAP, "timeout": CALL_SECONDS * 1000}
        read = f"GET {self._export} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
        self._silent = [await self._open(b"") for _ in range(SILENT_SOCKETS)]
        self._exports = [await self._open(read, receive_bytes=4096) for _ in range(SLOW_READERS)]
        self._bodies = [await self._open(self._server.head(1000) + b"{") for _ in range(SLOW_BODIES)]
        for _ in range(SLOW_CALLS):
            self._calls.append(await self._open(self._server.request(COMPLETION, call)))
            await asyncio.sleep(CALL_GAP_SECONDS)
        self._idle = [await self._open(IDLE % self._server.key.encode()) for _ in range(IDLE_CONNECTIONS)]

    async def _open(self, first: bytes, receive_bytes: int = 0) -> socket.socket:
        opened = socket.socket()
        if receive_bytes:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        opened.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(opened, (self._server.host, self._server.port))
        await loop.sock_sendall(opened, first)
        return opened

    def trickle(self) -> None:
        """A byte more of each body."""
        for body in self._bodies:
            with suppress(OSError):
                body.send(b" ")

    def held(self) -> Held:
        return Held(
            sum(map(is_silent, self._calls)),
            sum(map(is_silent, self._bodies)),
            sum(map(is_unfinished, self._exports)),
            sum(map(is_silent, self._silent)),
            sum(map(is_kept, self._idle)),
        )


def peeked(connection: socket.socket, count: int = 64) -> bytes | None:
    """What has come on it; None where nothing has, and it is open."""
    try:
        return connection.recv(count, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def is_silent(connection: socket.socket) -> bool:
    return peeked(connection) is None


def is_unfinished(connection: socket.socket) -> bool:
    """A file that has begun; where the server has ended it, that stands behind what is not read."""
    return (peeked(connection) or b"").startswith(b"HTTP/1.1 200")


def is_kept(connection: socket.socket) -> bool:
    """An answer has come, perhaps that there is no place for a call, and the server leaves the connection open."""
    answer = peeked(connection, 4096) or b""
    return answer.startswith(b"HTTP/1.1 ") and b"\r\nconnection: close\r\n" not in answer


def be_greedy(server: Server, export: str, orders: Connection) -> None:
    """Takes all it can, says what it holds each time it is asked, and lets go when the pipe closes."""

    async def run() -> None:
        greedy = Greedy(server, export)
        await greedy.take()
        await asyncio.sleep(SETTLE_SECONDS)
        orders.send(greedy.held())
        while True:
            greedy.trickle()
            await asyncio.sleep(1)
            if orders.poll():
                orders.recv()
                orders.send(greedy.held())

    with suppress(EOFError, OSError):
        asyncio.run(run())


@contextmanager
def beside_greedy(server: Server, export: str) -> Iterator[Connection]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=be_greedy, args=(server, export, theirs))
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.terminate()
        process.join()


# ---------------------------------------------------------------------- rounds
def prepare(product: Product) -> tuple[Server, Server, str]:
    """The ordinary caller, the greedy key and the path of a file of its costs that is too large to be sent unread."""
    ordinary_key = product.new_key("ordinary", "globex", "COMPLETIONS", "COSTS")
    greedy_key = product.new_key("greedy", "acme", "COMPLETIONS", "COSTS")
    administrator = Server(product.host, product.port, product.key)
    made = administrator.ask(BUDGET, {"limit": str(ALL_BUDGET_USD)})
    if made["budgetCreate"]["__typename"] != "Budget":
        raise SystemExit(f"no budget: {made}")
    greedy = Server(product.host, product.port, greedy_key)
    message = f'completionCreate(input: {{messages: [{{role: USER, text: "a"}}], agent: "{"a" * 60}"}}) {{ __typename }}'
    fields = " ".join(f"c{number}: {message}" for number in range(ROWS_A_REQUEST))
    with ThreadPoolExecutor(WRITERS) as writers:
        list(writers.map(greedy.ask, [f"mutation {{ {fields} }}"] * (ROWS // ROWS_A_REQUEST)))
    url = str(greedy.ask(EXPORT, all_time())["costExportCreate"]["url"])
    return Server(product.host, product.port, ordinary_key), greedy, urlsplit(url).path


def compare(caller: Server, greedy: Server, export: str) -> tuple[Seen, Seen, bool]:
    """Alone, beside the greedy key, and whether that held what it should all the while."""
    alone = ordinary(caller)
    with beside_greedy(greedy, export) as orders:
        before: Held = orders.recv()
        ended_by = time.monotonic() + CALL_SECONDS
        started = time.perf_counter()
        beside = ordinary(caller)
        seconds = time.perf_counter() - started
        orders.send("held?")
        after: Held = orders.recv()
    time.sleep(max(0.0, ended_by - time.monotonic()))  # calls go on when their caller has left, until their time is up
    ratio = beside.p95_ms / alone.p95_ms
    print(
        f"alone p95 {alone.p95_ms:6.1f} ms, beside p95 {beside.p95_ms:6.1f} ms in {seconds:4.1f} s, ratio {ratio:.2f}", end="; "
    )
    print(f"failures {len(alone.failures)} and {len(beside.failures)}; held {after}", flush=True)
    for failure in (*alone.failures, *beside.failures)[:3]:
        print(f"    {failure}")
    return alone, beside, before.enough and after.enough


def main() -> int:
    with running({"GREENLANG_SERVER__MAX_IN_FLIGHT": str(PLACES)}, OPEN_FILES) as product:
        caller, greedy, export = prepare(product)
        ordinary(caller)
        rounds = [compare(caller, greedy, export) for _ in range(ROUNDS)]
    ratio = statistics.median(beside.p95_ms / alone.p95_ms for alone, beside, _ in rounds)
    failures = sum(len(alone.failures) + len(beside.failures) for alone, beside, _ in rounds)
    held = all(enough for _, _, enough in rounds)
    print(f"\np95 beside / alone: {ratio:.2f} (allowed {MAX_RATIO}); failures {failures} of {ROUNDS * CALLS * 4} calls")
    if not held:
        print("the greedy key did not hold what it should: this run says nothing")
    return 0 if ratio <= MAX_RATIO and not failures and held else 1


if __name__ == "__main__":
    sys.exit(main())
