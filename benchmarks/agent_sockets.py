"""The load of `benchmarks/agents.py`, as a process of its own: many agents with one WebSocket each, on bare protocols.

    python -m benchmarks.agent_sockets AGENTS PORT KEY [KEY ...]

It opens all sockets, prints `open`, and waits for a line. Then half of the agents start a stream and the others a mutation. One
that is refused as OVERLOADED asks again after `retryAfterMs`. It prints what it saw as one line of JSON, and keeps the sockets
open until the next line.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import msgspec
import uvloop

AT_ONCE = 100
"""Sockets that are opened side by side."""
RAMP_SECONDS = 10.0
"""All agents ask within this time."""
OPENING_SECONDS = 300.0
ANSWER_SECONDS = 900.0
TOKENS = 10
_ENDED = "overheadMs attempts { providerRequestId }"
_PROBLEM = "... on Problem { message } ... on RateLimited { retryAfterMs }"
STREAM = (
    "subscription($input: CompletionInput!) { found: completionStream(input: $input) { __typename ... on CompletionDelta { text }"
    f" ... on CompletionFinished {{ completion {{ {_ENDED} }} }} ... on CompletionFailed {{ problem {{ {_PROBLEM} }} }} }} }}"
)
MUTATION = (
    "mutation($input: CompletionInput!) { found: completionCreate(input: $input)"
    f" {{ __typename ... on Completion {{ {_ENDED} }} {_PROBLEM} }} }}"
)
_TEXT, _CLOSE, _PING = 1, 8, 9

Json: TypeAlias = "dict[str, Any]"  # JSON as a client sees it


class Answered(msgspec.Struct):
    """`waited_ms` is from the first question to the end of the answer."""

    waited_ms: float
    overhead_ms: float | None
    request_id: str


class Seen(msgspec.Struct):
    answered: list[Answered] = []
    overloaded: int = 0
    failures: dict[str, int] = {}
    """How many agents got no answer, by reason."""


def frame_of(text: str) -> bytes:
    """A client's text frame; a mask of zeros leaves the text as it is."""
    data = text.encode()
    length = bytes([0x80 | len(data)]) if len(data) < 126 else bytes([0xFE]) + len(data).to_bytes(2, "big")
    return b"\x81" + length + b"\0\0\0\0" + data


def frames_in(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Takes whole frames of a server from the buffer: their opcodes and payloads."""
    while len(buffer) >= 2:
        length, start = buffer[1], 2
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(buffer[2:start], "big") if len(buffer) >= start else sys.maxsize
        if len(buffer) < start + length:
            return
        frame = buffer[0] & 0xF, bytes(buffer[start : start + length])
        del buffer[: start + length]
        yield frame


@dataclass(slots=True)
class Fleet:
    size: int
    ready: int = 0
    answered: list[Answered] = field(default_factory=list)
    overloaded: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    all_ended: asyncio.Event = field(default_factory=asyncio.Event)

    def ended(self) -> None:
        if len(self.answered) + self.failures.total() >= self.size:
            self.all_ended.set()


class Agent(asyncio.Protocol):
    def __init__(self, number: int, key: str, fleet: Fleet) -> None:
        self._number = number
        self._key = key
        self._fleet = fleet
        self._buffer = bytearray()
        self._upgraded = False
        self._asked_at = 0.0
        self._tries = itertools.count()
        self._is_done = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        key = base64.b64encode(os.urandom(16)).decode()
        self._transport.write(
            "GET /graphql HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._upgraded:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            if b" 101 " not in head:
                self._end(f"handshake: {head[:80]!r}")
                return
            self._upgraded, self._buffer = True, rest
            self._send({"type": "connection_init", "payload": {"authorization": f"Bearer {self._key}"}})
        for opcode, payload in frames_in(self._buffer):
            if opcode == _TEXT and b'"CompletionDelta"' not in payload:
                self._take(msgspec.json.decode(payload))
            elif opcode == _PING and self._transport is not None:
                self._transport.write(b"\x8a" + bytes([0x80 | len(payload)]) + bytes(4) + payload)
            elif opcode == _CLOSE:
                self._end(f"closed: {payload[2:80]!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"connection lost: {exc!r}")

    def ask(self) -> None:
        self._asked_at = self._asked_at or time.monotonic()
        text = f"Question {self._number} [[simulator tokens={TOKENS}]]"
        asked = {"messages": [{"role": "USER", "text": text}], "maxOutputTokens": 5 * TOKENS, "agent": f"agent-{self._number}"}
        query = STREAM if self._number % 2 else MUTATION
        payload = {"query": query, "variables": {"input": asked}}
        self._send({"id": str(next(self._tries)), "type": "subscribe", "payload": payload})

    def _send(self, message: Json) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame_of(msgspec.json.encode(message).decode()))

    def _take(self, message: Json) -> None:
        match message["type"]:
            case "connection_ack":
                self._fleet.ready += 1
            case "ping":
                self._send({"type": "pong"})
            case "next":
                payload = message["payload"]
                self._refused(payload["errors"]) if "errors" in payload else self._event(payload["data"]["found"])
            case "error":
                self._refused(message["payload"])

    def _event(self, event: Json) -> None:
        match event["__typename"]:
            case "CompletionFinished":
                self._answered(event["completion"])
            case "Completion":
                self._answered(event)
            case "CompletionFailed":
                self._again_or_end(event["problem"], str(event["problem"]["message"]))
            case name if "message" in event:
                self._again_or_end(event, f"{name}: {event['message']}")

    def _refused(self, errors: list[Json]) -> None:
        extensions = errors[0].get("extensions", {})
        self._again_or_end(extensions, f"{extensions.get('code')}: {errors[0]['message']}")

    def _again_or_end(self, refusal: Json, reason: str) -> None:
        after_ms = refusal.get("retryAfterMs")
        if after_ms is None:
            self._end(reason)
        else:
            self._fleet.overloaded += 1
            asyncio.get_running_loop().call_later(after_ms / 1000, self.ask)

    def _answered(self, completion: Json) -> None:
        self._is_done = True
        waited_ms = (time.monotonic() - self._asked_at) * 1000
        request_id = completion["attempts"][-1]["providerRequestId"]
        self._fleet.answered.append(Answered(waited_ms, completion["overheadMs"], request_id))
        self._fleet.ended()

    def _end(self, reason: str) -> None:
        """Without an answer."""
        if not self._is_done:
            self._is_done = True
            self._fleet.failures[reason] += 1
            self._fleet.ended()


async def open_all(fleet: Fleet, port: int, keys: list[str]) -> list[Agent]:
    agents = [Agent(number, keys[number % len(keys)], fleet) for number in range(fleet.size)]
    async with asyncio.timeout(OPENING_SECONDS):
        for first in range(0, fleet.size, AT_ONCE):
            batch = agents[first : first + AT_ONCE]
            await asyncio.gather(*(_open(agent, port) for agent in batch))
            while fleet.ready + fleet.failures.total() < first + len(batch):  # noqa: ASYNC110 (counted by many protocols)
                await asyncio.sleep(0.01)
    return agents


async def _open(agent: Agent, port: int) -> None:
    await asyncio.get_running_loop().create_connection(lambda: agent, "127.0.0.1", port)


async def main(size: int, port: int, keys: list[str]) -> None:
    loop, fleet = asyncio.get_running_loop(), Fleet(size)
    agents = await open_all(fleet, port, keys)
    print("open", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    for number, agent in enumerate(agents):
        loop.call_later(RAMP_SECONDS * number / size, agent.ask)
    async with asyncio.timeout(ANSWER_SECONDS):
        await fleet.all_ended.wait()
    print(msgspec.json.encode(Seen(fleet.answered, fleet.overloaded, fleet.failures)).decode(), flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
