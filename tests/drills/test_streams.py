"""Server processes die while streams run: every watcher, in any process, gets each event once and the end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias, cast

import aiohttp
import pytest

from tests.drills.agents import until_true
from tests.servers import Client, RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(120)]

STREAMS = 16
ENDS = {"CompletionFinished", "CompletionFailed", "CompletionCancelled"}
START = """
mutation($input: CompletionInput!) { completionStart(input: $input) { __typename ... on Completion { id status } } }"""
EVENTS = """
subscription($id: ID!, $after: Cursor) {
  completionEvents(id: $id, after: $after) {
    __typename
    ... on StreamEvent { cursor }
    ... on CompletionDelta { text }
    ... on CompletionFinished { completion { text usage { confirmed } } }
    ... on CompletionFailed { problem { ... on Problem { code } } partial { text costUsd attempts { model } } }
  }
}"""
RECORDS = """
{
  usageRecords(filter: {period: {from: "2026-01-01T00:00:00Z", to: "2100-01-01T00:00:00Z"}}, first: 100) {
    nodes { completionId confirmed }
  }
}"""

Event: TypeAlias = "dict[str, Any]"  # JSON as a client sees it


@dataclass
class Watcher:
    """Follows one completion over WebSockets, and takes it up again behind its last event when the socket is lost."""

    server: RunningServer
    key: str
    completion: str
    query: str = EVENTS
    events: list[Event] = field(default_factory=list)
    sockets: int = 0
    ended_at: float = 0.0

    async def run(self, session: aiohttp.ClientSession) -> None:
        while not self.ended_at:
            try:
                await self._watch(session)
            except (aiohttp.ClientError, ConnectionError):
                await asyncio.sleep(0.05)

    async def _watch(self, session: aiohttp.ClientSession) -> None:
        headers = {"Authorization": f"Bearer {self.key}"}
        async with session.ws_connect(self.server.url, protocols=["graphql-transport-ws"], headers=headers) as socket:
            self.sockets += 1
            await socket.send_json({"type": "connection_init"})
            after = self.events[-1]["cursor"] if self.events else None
            payload = {"query": self.query, "variables": {"id": self.completion, "after": after}}
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    return
                frame = message.json()
                if frame["type"] == "connection_ack":
                    await socket.send_json({"id": "1", "type": "subscribe", "payload": payload})
                elif frame["type"] == "ping":
                    await socket.send_json({"type": "pong"})
                elif frame["type"] == "next":
                    self._note(frame["payload"])
                elif frame["type"] == "complete":
                    return
                elif frame["type"] == "error":
                    raise AssertionError(frame)

    def _note(self, payload: Event) -> None:
        assert "errors" not in payload, payload
        event = payload["data"]["completionEvents"]
        if event["__typename"] == "Heartbeat":
            return
        self.events.append(event)
        if event["__typename"] in ENDS:
            self.ended_at = time.monotonic()

    @property
    def text(self) -> str:
        return "".join(event.get("text", "") for event in self.events)


async def start_streams(client: Client) -> list[str]:
    async def start(number: int) -> str:
        text = f"Question {number} [[simulator tokens=60 fault=slow-drip]]"
        data = await client.execute(START, {"input": {"messages": [{"role": "USER", "text": text}], "maxOutputTokens": 100}})
        return cast("dict[str, str]", data["completionStart"])["id"]

    return await asyncio.gather(*(start(number) for number in range(STREAMS)))


class TestOwnerKilledWhileItsStreamsAreWatched:
    async def test_everybody_sees_each_event_once_and_how_it_ended(self, tmp_path: Path) -> None:
        with start_server(tmp_path / "data", "--workers", "2") as server:
            key = server.key
            assert key is not None
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0)) as session:
                client = Client(session, server, key)
                ids = await start_streams(client)
                watchers = [Watcher(server, key, completion) for completion in ids * 3]
                watching = asyncio.gather(*(watcher.run(session) for watcher in watchers))
                await until_true(lambda: all(len(watcher.events) > 2 for watcher in watchers))
                killed_at = time.monotonic()
                os.kill(server.servers[0].pid, signal.SIGKILL)
                async with asyncio.timeout(60):
                    await watching
                records = cast("dict[str, Any]", (await client.execute(RECORDS))["usageRecords"])["nodes"]

        failed = [watcher for watcher in watchers if watcher.events[-1]["__typename"] == "CompletionFailed"]
        finished = [watcher for watcher in watchers if watcher.events[-1]["__typename"] == "CompletionFinished"]
        assert failed
        assert finished
        assert len(failed) + len(finished) == len(watchers)
        assert max(watcher.sockets for watcher in watchers) > 1
        for watcher in watchers:
            cursors = [event["cursor"] for event in watcher.events]
            assert len(set(cursors)) == len(cursors)
            assert watcher.events[0]["__typename"] == "CompletionStarted"
            assert sum(event["__typename"] in ENDS for event in watcher.events) == 1
        assert all(watcher.ended_at - killed_at < 10 for watcher in failed)
        assert all(watcher.text == watcher.events[-1]["completion"]["text"] for watcher in finished)
        for watcher in failed:
            partial = watcher.events[-1]["partial"]
            assert partial["text"] == watcher.text
            assert Decimal(partial["costUsd"]) > 0
            assert len(partial["attempts"]) == 1
        by_id = {key: [watcher for watcher in watchers if watcher.completion == key] for key in ids}
        assert all(other.events == first.events for first, *others in by_id.values() for other in others)
        assert Counter(record["completionId"] for record in records) == Counter(ids)
        unconfirmed = {record["completionId"] for record in records if not record["confirmed"]}
        assert unconfirmed == {watcher.completion for watcher in failed}
