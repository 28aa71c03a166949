"""A server that is asked to stop: it says so, serves on for a while, and then ends its streams and connections in order."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import aiohttp
import pytest

from tests.servers import RunningServer, start_server

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(120)]

COMPLETE = "mutation Go($input: CompletionInput!) { completionCreate(input: $input) { ... on Completion { status text } } }"
STREAM = """
subscription Go($input: CompletionInput!) { completionStream(input: $input) {
  ... on StreamEvent { cursor } ... on CompletionStarted { completionId } } }"""
ALERTS = "subscription { budgetAlerts { __typename ... on StreamEvent { cursor } } }"
SLOW = {"messages": [{"role": "USER", "text": "Hello [[simulator fault=slow-drip tokens=60]]"}]}
RECORDS = """
{ usageRecords(filter: {period: {from: "2026-01-01T00:00:00Z", to: "2100-01-01T00:00:00Z"}}) { nodes { outcome } } }"""
RUNNING = "query Find($id: ID!) { completion(id: $id) { status } }"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    environ = {"GREENLANG_SERVER__DRAIN_DELAY": "2s", "GREENLANG_SERVER__SHUTDOWN_GRACE": "20s"}
    with start_server(tmp_path / "data", environ=environ) as running:
        yield running


@pytest.fixture
async def session(server: RunningServer) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {server.key}"}
    async with aiohttp.ClientSession(headers=headers) as opened:
        yield opened


async def open_socket(session: aiohttp.ClientSession, server: RunningServer) -> aiohttp.ClientWebSocketResponse:
    socket = await session.ws_connect(server.url, protocols=["graphql-transport-ws"])
    await socket.send_json({"type": "connection_init"})
    assert (await socket.receive_json())["type"] == "connection_ack"
    return socket


async def frames(socket: aiohttp.ClientWebSocketResponse) -> list[dict[str, object]]:
    """All that comes until the server closes the socket."""
    received: list[dict[str, object]] = []
    async for message in socket:
        frame = json.loads(message.data)
        if frame["type"] == "ping":
            await socket.send_json({"type": "pong"})
        else:
            received.append(frame)
    return received


async def ready_status(server: RunningServer) -> int:
    async with aiohttp.ClientSession() as fresh, fresh.get(f"{server.address}/ready") as answer:
        return answer.status


async def until_draining(server: RunningServer) -> None:
    async with asyncio.timeout(2):
        while await ready_status(server) != 503:  # noqa: ASYNC110 (the condition is another process's state)
            await asyncio.sleep(0.05)


class TestAskedToStop:
    async def test_it_is_not_ready_but_serves_new_connections_until_the_delay_is_over(
        self, server: RunningServer, session: aiohttp.ClientSession
    ) -> None:
        assert await ready_status(server) == 200
        server.process.send_signal(signal.SIGTERM)
        await until_draining(server)
        async with session.post(server.url, json={"query": "{ viewer { tenant } }"}) as answer:
            assert (answer.status, answer.headers["connection"]) == (200, "close")
        await asyncio.to_thread(server.process.wait, 20)
        assert server.process.returncode == 0

    async def test_calls_in_flight_are_answered_over_http_and_websockets(
        self, server: RunningServer, session: aiohttp.ClientSession
    ) -> None:
        socket = await open_socket(session, server)
        await socket.send_json({"id": "1", "type": "subscribe", "payload": {"query": COMPLETE, "variables": {"input": SLOW}}})
        await socket.send_json({"id": "2", "type": "subscribe", "payload": {"query": ALERTS}})
        posted = asyncio.ensure_future(session.post(server.url, json={"query": COMPLETE, "variables": {"input": SLOW}}))
        await asyncio.sleep(1)
        server.process.send_signal(signal.SIGTERM)
        received = await frames(socket)
        async with await posted as answer:
            body = await answer.json()
        assert [frame["type"] for frame in received if frame["id"] == "1"] == ["next", "complete"]
        assert [frame["type"] for frame in received if frame["id"] == "2"] == ["next"] * len(received[2:])
        assert socket.close_code == 1012
        assert body["data"]["completionCreate"]["status"] == "FINISHED"
        assert answer.headers["connection"] == "close"

    @pytest.mark.parametrize("leaving", ["CONTINUE", "CANCEL"])
    async def test_streams_end_with_a_cursor_and_their_call_goes_on(
        self, server: RunningServer, session: aiohttp.ClientSession, leaving: str, tmp_path: Path
    ) -> None:
        """Also a call that would be cancelled if its client left, because the client did not leave."""
        given = {
            "messages": [{"role": "USER", "text": "Hello [[simulator fault=slow-drip tokens=40]]"}],
            "onClientLeave": leaving,
        }
        async with session.post(
            server.url,
            json={"query": STREAM, "variables": {"input": given}},
            headers={"Accept": "text/event-stream"},
        ) as answer:
            seen = asyncio.ensure_future(answer.text())
            await asyncio.sleep(1)
            server.process.send_signal(signal.SIGTERM)
            text = await seen
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
        payloads = [cast("dict[str, dict[str, str]]", event["data"])["completionStream"] for event in events]
        assert all(payload["cursor"] for payload in payloads)
        assert "event: complete" not in text
        await asyncio.to_thread(server.process.wait, 30)
        call = payloads[0]["completionId"]
        with start_server(tmp_path / "data") as again:
            async with (
                aiohttp.ClientSession(headers={"Authorization": f"Bearer {server.key}"}) as fresh,
                fresh.post(again.url, json={"query": RUNNING, "variables": {"id": call}}) as found,
            ):
                assert (await found.json())["data"] == {"completion": {"status": "FINISHED"}}


class TestAskedTwice:
    async def test_running_calls_end_at_once_and_hold_nothing(
        self, server: RunningServer, session: aiohttp.ClientSession, tmp_path: Path
    ) -> None:
        silent = {"messages": [{"role": "USER", "text": "Hello [[simulator fault=silent]]"}]}
        posted = asyncio.ensure_future(session.post(server.url, json={"query": COMPLETE, "variables": {"input": silent}}))
        await asyncio.sleep(1)
        server.process.send_signal(signal.SIGTERM)
        await until_draining(server)
        server.process.send_signal(signal.SIGTERM)
        async with await posted as answer:
            assert "TIMEOUT" in await answer.text()
        await asyncio.to_thread(server.process.wait, 8)
        assert server.process.returncode == 0
        with start_server(tmp_path / "data") as again:
            async with (
                aiohttp.ClientSession(headers={"Authorization": f"Bearer {server.key}"}) as fresh,
                fresh.post(again.url, json={"query": RECORDS}) as found,
            ):
                assert (await found.json())["data"] == {"usageRecords": {"nodes": [{"outcome": "CANCELLED"}]}}
