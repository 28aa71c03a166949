"""Documents and bodies that hurt other servers, against the running product: is each refused, how fast, and at whose cost?

    python -m benchmarks.attacks

A prober asks for a small file all the while: its slowest answer in a round shows how long the event loop stood still. The median
is reported over the rounds, since a busy machine adds pauses of its own. Exit status 1 when an attack is let through, takes 100
ms or more (unless its body is over the limit), stalls the loop for more than 50 ms or makes the server grow for good: memory is
looked at at rest, before and after, when each attack has come a few times before. What is allowed must only not stall anybody.
"""

from __future__ import annotations

import http.client
import json
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from graphql import get_introspection_query
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from app.web.memory import REST_SECONDS
from benchmarks.product import Product, running

ROUNDS = 9
ROUNDS_BEFORE = 3
RECORDS = 200
OK = 200
HANDSHAKE = (
    b"GET /graphql HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
)
SLOWEST_MS = 100.0
MAX_STALL_MS = 50.0
MAX_GROWTH_MB = 30.0
AT_REST_SECONDS = 3 * REST_SECONDS
LARGE_FRAME = 500_000
IMAGE = {"base64": {"data": "QUJD" * 5_000_000, "mediaType": "image/png"}}
ESCAPED = ("\u4e2d" * 1_040_000, "\n" * 450_000, "x" * 23_000_000)
UNESCAPED = ("\u4e2d" * 2_080_000, "\n" * 1_490_000, "x" * 23_000_000)
TWO_USES = "query($i: CompletionInput!) { " + " ".join(f"a{n}: routeExplain(input: $i) {{ target }}" for n in range(2)) + " }"
ARGUMENTS = {"id": "1", "name": "n", "arguments": "{}"}
LARGE_ARGUMENTS = {**ARGUMENTS, "arguments": '{"a": [' + "[]," * 10_000_000 + "0]}"}


@dataclass(frozen=True, slots=True)
class Attack:
    name: str
    body: bytes
    allowed: bool = False


@dataclass(slots=True)
class Found:
    outcome: str
    refused: bool
    by_size: bool
    median_ms: float
    stall_ms: float


@dataclass(slots=True)
class Prober:
    product: Product
    slowest_ms: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        connection = http.client.HTTPConnection(self.product.host, self.product.port, timeout=60)
        while not self.stop.is_set():
            started = time.perf_counter()
            connection.request("GET", "/graphql/console.svg")
            connection.getresponse().read()
            self.slowest_ms = max(self.slowest_ms, (time.perf_counter() - started) * 1000)
            time.sleep(0.002)
        connection.close()


@contextmanager
def probing(product: Product) -> Iterator[Prober]:
    prober = Prober(product)
    thread = threading.Thread(target=prober.run)
    thread.start()
    try:
        yield prober
    finally:
        prober.stop.set()
        thread.join()


def document(name: str, query: str, variables: object = None) -> Attack:
    return Attack(name, json.dumps({"query": query, "variables": variables}).encode())


def document_allowed(name: str, query: str, variables: object) -> Attack:
    return Attack(name, document(name, query, variables).body, allowed=True)


def fragment_bomb(levels: int) -> str:
    fragments = [f"fragment F{level} on Query {{ ...F{level + 1} ...F{level + 1} }}" for level in range(levels)]
    return f"{{ ...F0 }} {' '.join(fragments)} fragment F{levels} on Query {{ __typename }}"


def nested(depth: int) -> str:
    return "{ viewer " * depth + "}" * depth


def documents() -> list[Attack]:
    page = "usageRecords(filter: $f, first: 100) { nodes { id labels { key } } }"
    period = {"f": {"period": {"from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}}}
    overlapping = " ".join(
        f"fragment O{n} on Query {{ viewer {{ tenant a{n}: keyName allowance {{ capacity }} }} }}" for n in range(60)
    )
    return [
        document("nesting 100", nested(100)),
        document("nesting 200", nested(200)),
        document("nesting 20,000", nested(20_000)),
        document("aliases 1,000", "{ " + " ".join(f"a{n}: __typename" for n in range(1000)) + " }"),
        document("aliases 5,000", "{ " + " ".join(f"a{n}: __typename" for n in range(5000)) + " }"),
        document("same field x1,000", "{ " + "__typename " * 1000 + "}"),
        document("same field x10,000", "{ " + "__typename " * 10_000 + "}"),
        document("two fields x500, nested", "{ " + "viewer { tenant } " * 500 + "}"),
        document("unknown directive x1,000", "{ __typename " + "@x " * 1000 + "}"),
        document("unknown directive x10,000", "{ __typename " + "@x " * 10_000 + "}"),
        document("circular fragment", "{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }"),
        document("self fragment", "{ ...A } fragment A on Query { __typename ...A }"),
        *(document(f"fragment bomb 2^{levels}", fragment_bomb(levels)) for levels in (16, 20, 24, 60)),
        document("60 overlapping fragments", "{ " + " ".join(f"...O{n}" for n in range(60)) + " } " + overlapping),
        document("fan-out of pages", "query($f: CostFilter!) { " + " ".join(f"p{n}: {page}" for n in range(20)) + " }", period),
        document("directives on variables", "query(" + "$v: Int @x @y @z " * 200 + ") { __typename }"),
        document("introspection beside a field", "{ viewer { tenant } " + get_introspection_query().strip().partition("{")[2]),
        document("19 introspections", "{ " + " ".join(f"a{n}: __schema {{ types {{ name }} }}" for n in range(19)) + " }"),
        document("450 unknown fields, short", "{" + ("a{" + "b{c} " * 10 + "} ") * 10 + "}"),
        document("nested introspection", "{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }"),
        document("1,000 operations", " ".join(f"query Q{n} {{ __typename }}" for n in range(1000))),
        document("500 unknown fields", "{ viewer { " + " ".join(f"nope{n}" for n in range(499)) + " } }"),
        document("negative page", "query($f: CostFilter!) { usageRecords(filter: $f, first: -5) { nodes { id } } }", period),
        document("1 MB string literal", '{ budget(id: "' + "x" * 1_000_000 + '") { id } }'),
        document("unterminated strings", '{ budget(id: "' + '\\"' * 30_000),
        document("5 MB of commas", "{ __typename " + "," * 5_000_000 + "}"),
        document(
            "a list of 1,900 in the text",
            "query($f: CostFilter!) { costs(filter: $f, groupBy: [" + "MODEL " * 1900 + "]) { asOf } }",
            period,
        ),
        document("600 unknown arguments", "{ viewer(" + " ".join(f"nope{n}: 1" for n in range(600)) + ") { tenant } }"),
        document("typo", "{ viewr { tenant } }"),
        document("unknown fragment", "{ ...Nope }"),
    ]


def allowed() -> list[Attack]:
    """As expensive as a good document can be, never seen before: it runs, and must not hold up the others."""
    wide = "usageRecords(filter: $f, first: 20) { nodes { id at provider model tenant agent costUsd labels { key value } } }"
    fields = " ".join(f"p{n}: {wide}" for n in range(20))
    now = datetime.now(UTC)
    period = {"f": {"period": {"from": (now - timedelta(days=1)).isoformat(), "to": (now + timedelta(days=1)).isoformat()}}}
    query = json.dumps({"query": f"query($f: CostFilter!) {{ {fields} }}", "variables": period})
    conditional = " ".join(f"c{n}: {wide}".replace("first: 20)", "first: 100) @include(if: true)") for n in range(3))
    report = "costs(filter: $f, groupBy: [HOUR, MODEL, AGENT]) { totals { costUsd } }"
    reports = " ".join(f"r{n}: {report}" for n in range(20))
    return [
        document_allowed("20 cost reports", f"query($f: CostFilter!) {{ {reports} }}", period),
        document_allowed("1,900 messages used twice", TWO_USES, {"i": {"messages": [{"role": "USER", "text": "a"}] * 1_900}}),
        Attack("20 expensive fields", query.encode(), allowed=True),
        document_allowed("300 rows, with a directive", f"query($f: CostFilter!) {{ {conditional} }}", period),
        Attack("introspection, as administrator", json.dumps({"query": get_introspection_query()}).encode(), allowed=True),
        Attack("7,900 messages", many({"role": "USER", "text": "x"}, 7_900), allowed=True),
        Attack("1,999 messages of 3 parts", many({"role": "USER", "parts": [{"text": "x"}] * 3}, 1_999), allowed=True),
        Attack("30 MB text", many({"role": "USER", "text": "x" * 30_000_000}, 1), allowed=True),
        Attack("30 MB with a million line ends", many({"role": "USER", "text": ("x" * 28 + "\n") * 1_000_000}, 1), allowed=True),
        Attack("6 MB with an emoji", many({"role": "USER", "text": "x" * 6_000_000 + "\U0001f600"}, 1), allowed=True),
        Attack("3 MB of line ends", many({"role": "USER", "text": "\n" * 1_490_000}, 1), allowed=True),
        Attack("90,000 floats", numbers(b"0.12345678901234567", 90_000), allowed=True),
        Attack("every limit at once", texts(ESCAPED, escaped=True), allowed=True),
        Attack("the same, in UTF-8", texts(UNESCAPED, escaped=False), allowed=True),
        Attack("30 MB of arguments", many({"role": "ASSISTANT", "toolCalls": [LARGE_ARGUMENTS]}, 1), allowed=True),
        Attack("7,900 tool calls", many({"role": "ASSISTANT", "toolCalls": [ARGUMENTS] * 7_900}, 1), allowed=True),
        Attack("20 MB image", many({"role": "USER", "parts": [{"image": IMAGE}]}, 1), allowed=True),
    ]


def many(message: object, count: int, *, escaped: bool = True) -> bytes:
    query = "query($i: CompletionInput!) { routeExplain(input: $i) { target } }"
    body = {"query": query, "variables": {"i": {"messages": [message] * count}}}
    return json.dumps(body, ensure_ascii=escaped).encode()


def texts(parts: tuple[str, ...], *, escaped: bool) -> bytes:
    return many({"role": "USER", "parts": [{"text": text} for text in parts]}, 1, escaped=escaped)


def with_variables(variables: object) -> bytes:
    return json.dumps({"query": "query($i: JSON) { __typename }", "variables": {"i": variables}}).encode()


def numbers(text: bytes, count: int) -> bytes:
    return b'{"query": "query($i: JSON) { __typename }", "variables": {"i": [' + b",".join([text] * count) + b"]}}"


def uses() -> list[Attack]:
    """A variable costs a body's bytes once, and its place in the document as often as it stands there."""
    zeros = ", ".join(f"a{n}: $x" for n in range(100))
    tools = f'[{{name: "a", parameters: {{{zeros}}}}}]'
    asked = f'query($x: [Int]!) {{ routeExplain(input: {{messages: [{{role: USER, text: "a"}}], tools: {tools}}}) {{ target }} }}'
    aliases = " ".join(f"a{n}: routeExplain(input: $i) {{ target }}" for n in range(20))
    calls = {"role": "ASSISTANT", "toolCalls": [ARGUMENTS] * 7_900}
    messages = ", ".join(["$m"] * 100)
    many_calls = f"query($m: MessageInput!) {{ routeExplain(input: {{messages: [{messages}]}}) {{ target }} }}"
    few_calls = " ".join(['{id: "1", name: "n", arguments: "{}"}'] * 60)
    by_default = (
        f"query($m: MessageInput! = {{role: ASSISTANT, toolCalls: [{few_calls}]}})"
        f" {{ routeExplain(input: {{messages: [{'$m ' * 600}]}}) {{ target }} }}"
    )
    return [
        document("90,000 zeros used 100 times", asked, {"x": [0] * 90_000}),
        document("900 zeros used 100 times", asked, {"x": [0] * 900}),
        document(
            "2,000 messages used 20 times",
            f"query($i: CompletionInput!) {{ {aliases} }}",
            {"i": {"messages": [{"role": "USER", "text": "a"}] * 2_000}},
        ),
        document("7,900 tool calls used 100 times", many_calls, {"m": calls}),
        document("60 tool calls by default, 600 times", by_default),
    ]


def bodies() -> list[Attack]:
    comments = json.dumps({"query": "{ __typename } " + "#\n" * 2_500_000}).encode()
    return [
        Attack("2.5 M comment lines", comments),
        Attack("batch of 100", json.dumps([{"query": "{ __typename }"}] * 100).encode()),
        Attack("100,000 nested lists", b'{"query": "{ __typename }", "variables": {"a": ' + b"[" * 100_000),
        Attack("integer of 5,000 digits", b'{"query": "{ __typename }", "variables": {"a": ' + b"1" * 5000 + b"}}"),
        Attack(
            "20 MB of empty lists",
            b'{"query": "{ __typename }", "variables": {"a": [' + b"[]," * 7_000_000 + b"0]}}",
        ),
        Attack("20,000 messages", many({"role": "USER", "text": "x"}, 20_000)),
        Attack("80,000 messages", many({"role": "USER", "text": "x"}, 80_000)),
        Attack("260,000 keys", with_variables({str(number): number for number in range(260_000)})),
        Attack("99,000 keys", with_variables({str(number): number for number in range(99_000)})),
        Attack("20 MB with an emoji", many({"role": "USER", "text": "x" * 20_000_000 + "\U0001f600"}, 1)),
        Attack("99,000 floats of 64 digits", numbers(b"1." + b"7" * 63 + b"e-300", 99_000)),
        Attack("7,000 floats of 4,000 digits", numbers(b"1." + b"7" * 4000, 7_000)),
        Attack("7,000 integers of 4,000 digits", numbers(b"7" * 4000, 7_000)),
        Attack("40 MB body", b'{"query": "{ __typename }", "variables": {"a": "' + b"x" * 40_000_000 + b'"}}'),
        Attack("30 MB of line ends", many({"role": "USER", "text": "\n" * 15_000_000}, 1)),
        Attack("30 MB of quotes", (b'"' * 65_534 + "\u00e9".encode()) * 480),
        Attack("invalid UTF-8", b'{"query": "\xff\xfe"}'),
        Attack("NaN", b'{"query": "{ __typename }", "variables": {"a": NaN}}'),
    ]


def send(product: Product, attack: Attack) -> tuple[int, bytes, float]:
    """Status, body and milliseconds; a server may answer before the whole body was sent."""
    connection = http.client.HTTPConnection(product.host, product.port, timeout=60)
    headers = {
        "authorization": f"Bearer {product.key}",
        "content-type": "application/json",
        "accept": "application/graphql-response+json",
    }
    connection.connect()
    started = time.perf_counter()
    connection.request("POST", "/graphql", attack.body, headers)
    response = connection.getresponse()
    body = response.read()
    took = (time.perf_counter() - started) * 1000
    connection.close()
    return response.status, body, took


def send_as_frame(product: Product, attack: Attack) -> tuple[int, bytes, float]:
    """The same in an operation of a WebSocket of its own; the status is that of the close, where there is one."""
    url = f"ws://{product.host}:{product.port}/graphql"
    protocols = [Subprotocol("graphql-transport-ws")]
    with connect(url, subprotocols=protocols, compression=None, max_size=None) as client:
        key = {"authorization": f"Bearer {product.key}"}
        client.send(json.dumps({"type": "connection_init", "payload": key}))
        client.recv()
        message = b'{"id":"a","type":"subscribe","payload":' + attack.body + b"}"
        frame = b"\x81\xff" + len(message).to_bytes(8) + bytes(4) + message  # masked with zeros: masking would stall the prober
        started = time.perf_counter()
        try:
            with suppress(OSError):  # refused before it was all sent
                client.socket.sendall(frame)
            answer = {"type": "ping"}
            while answer["type"] == "ping":
                answer = json.loads(client.recv())
        except ConnectionClosed as closed:
            found: object = {"errors": [{"extensions": {"code": closed.rcvd.reason if closed.rcvd else "closed"}}]}
            status = closed.rcvd.code if closed.rcvd else 1006
        else:
            found, status = {"errors": answer["payload"]} if answer["type"] == "error" else answer["payload"], 0
        return status, json.dumps(found).encode(), (time.perf_counter() - started) * 1000


def socket_floods() -> list[Attack]:
    """Of a caller without a key."""
    return [
        Attack("40,000 pings", b"\x89\x80\0\0\0\0" * 40_000),
        Attack("40,000 pongs", b"\x8a\x80\0\0\0\0" * 40_000),
        Attack("40,000 empty fragments", b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 40_000),
    ]


def request_floods() -> list[Attack]:
    return [Attack("13,000 requests at once", b"GET / HTTP/1.1\r\n\r\n" * 13_000)]


def send_raw(product: Product, attack: Attack, head: bytes = b"") -> tuple[int, bytes, float]:
    """Refused where the server ends the connection."""
    with socket.create_connection((product.host, product.port), timeout=10) as connection:
        if head:
            connection.sendall(head)
            connection.recv(4096)
        started = time.perf_counter()
        try:
            connection.sendall(attack.body)
            while connection.recv(65_536):
                pass
        except TimeoutError:
            return 0, b"{}", (time.perf_counter() - started) * 1000
        except OSError:
            pass
        return 0, b'{"errors": [{"extensions": {"code": "connection ended"}}]}', (time.perf_counter() - started) * 1000


def outcome_of(status: int, body: bytes) -> tuple[str, bool]:
    """What is reported of it, and whether it was refused."""
    errors = json.loads(body).get("errors")
    if not errors:
        return f"{status} ran", False
    extensions = errors[0]["extensions"]
    text = f"{status} {extensions['code']}"
    if "limit" in extensions:
        text += f" ({extensions['limit']} {extensions['had']} > {extensions['allowed']})"
    return text, True


def spend(product: Product) -> None:
    """So that there are rows to show."""
    message = 'completionCreate(input: {messages: [{role: USER, text: "a"}], agent: "a"}) { __typename }'
    fields = " ".join(f"c{n}: {message}" for n in range(10))
    for _ in range(RECORDS // 10):
        status, body, _ = send(product, document("spend", f"mutation {{ {fields} }}"))
        if status != OK or body.count(b'"Completion"') != 10:
            raise SystemExit(f"no completion: {status} {body!r}")


def resident_at_rest(product: Product) -> int:
    """Once the memory of large bodies has been given back."""
    time.sleep(AT_REST_SECONDS)
    return product.resident_bytes()


def measure(product: Product, attack: Attack, send: Callable[[Product, Attack], tuple[int, bytes, float]]) -> Found:
    times, stalls = [], []
    outcome, refused = "", False
    with probing(product) as prober:
        for _ in range(ROUNDS):
            prober.slowest_ms = 0.0
            status, body, took = send(product, attack)
            outcome, refused = outcome_of(status, body)
            times.append(took)
            time.sleep(0.005)
            stalls.append(prober.slowest_ms)
    return Found(outcome, refused, "body bytes" in outcome, statistics.median(times), statistics.median(stalls))


def show(attack: Attack, found: Found) -> bool:
    """Whether it is within the bounds."""
    fast = found.median_ms < SLOWEST_MS or found.by_size or attack.allowed
    good = (found.refused or attack.allowed) and fast and found.stall_ms <= MAX_STALL_MS
    line = f"{attack.name:31} {len(attack.body):>10,} {found.median_ms:>8.1f} {found.stall_ms:>8.1f}"
    print(f"{line}  {'' if good else 'NOT GOOD '}{found.outcome}", flush=True)
    return good


def main() -> int:
    failures = 0
    with running() as product:
        with probing(product) as prober:
            time.sleep(1)
        print(f"at rest the prober's slowest answer is {prober.slowest_ms:.1f} ms\n")
        print(f"{'attack':31} {'bytes':>10} {'p50 ms':>8} {'stall ms':>8}  outcome")
        spend(product)
        attacks = [*documents(), *uses(), *bodies(), *allowed()]
        frames = [attack for attack in attacks if len(attack.body) > LARGE_FRAME]
        for _ in range(ROUNDS_BEFORE):
            for attack in attacks:
                send(product, attack)
            for attack in frames:
                send_as_frame(product, attack)
        before = resident_at_rest(product)
        for attack in attacks:
            failures += not show(attack, measure(product, attack, send))
        print("\nthe large ones as frames of a WebSocket")
        for attack in frames:
            failures += not show(attack, measure(product, attack, send_as_frame))
        print("\nfloods without a key")
        floods = [*((attack, partial(send_raw, head=HANDSHAKE)) for attack in socket_floods())]
        floods += [(attack, partial(send_raw)) for attack in request_floods()]
        for attack, flood in floods:
            failures += not show(attack, measure(product, attack, flood))
        just_after = (product.resident_bytes() - before) / 1e6
        grown = (resident_at_rest(product) - before) / 1e6
        failures += grown > MAX_GROWTH_MB
        sent = (len(attacks) + len(frames) + len(floods)) * ROUNDS
        print(f"\n{sent} attacks, {failures} failures; the server holds {just_after:.1f} MB more right after the last of them,")
        print(f"{grown:.1f} MB more {AT_REST_SECONDS:.0f} s later, of {before / 1e6:.0f} MB")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
