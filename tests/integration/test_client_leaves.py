"""The client of a stream leaves a server of two processes, over both transports: its call is cancelled, or goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import msgspec
import pytest

from tests.servers import Client, RunningServer, start_server

pytestmark = pytest.mark.timeout(120)

Data: TypeAlias = "dict[str, Any]"  # JSON as a client sees it

STREAM = """subscription($input: CompletionInput!) { completionStream(input: $input) {
  __typename ... on CompletionStarted { completionId } ... on CompletionDelta { text } } }"""
COMPLETION = "query($id: ID!) { completion(id: $id) { status text costUsd usage { outputTokens } } }"
BUDGET = """mutation { budgetCreate(input: {name: "all", scope: {}, limitUsd: "100"}) { ... on Budget { id } } }"""
BUDGETS = "{ budgets { nodes { heldUsd spentUsd } } }"


def asked(on_client_leave: str | None) -> Data:
    text = "Slowly, please. [[simulator tokens=20 fault=slow-drip]]"
    return {
        "input": {
            "messages": [{"role": "USER", "text": text}],
            "maxOutputTokens": 50,
            "onClientLeave": on_client_leave,
        }
    }


async def complete_over_websocket(session: aiohttp.ClientSession, url: str, variables: Data) -> str:
    async with session.ws_connect(url, protocols=["graphql-transport-ws"]) as socket:
        completion = await first_words(socket, variables)
        await socket.send_json({"id": "1", "type": "complete"})
        await socket.send_json({"type": "ping"})
        async with asyncio.timeout(10):
            while (await socket.receive_json())["type"] != "pong":
                pass
    return completion


async def close_websocket(session: aiohttp.ClientSession, url: str, variables: Data) -> str:
    async with session.ws_connect(url, protocols=["graphql-transport-ws"]) as socket:
        return await first_words(socket, variables)


async def drop_websocket(session: aiohttp.ClientSession, url: str, variables: Data) -> str:
    """Without a closing frame."""
    socket = await session.ws_connect(url, protocols=["graphql-transport-ws"])
    completion = await first_words(socket, variables)
    transport = socket.get_extra_info("socket")
    assert transport is not None
    await asyncio.to_thread(transport.shutdown, 2)
    await socket.close()
    return completion


async def close_sse(session: aiohttp.ClientSession, url: str, variables: Data) -> str:
    completion = ""
    body, headers = {"query": STREAM, "variables": variables}, {"Accept": "text/event-stream"}
    async with session.post(url, json=body, headers=headers) as response:
        async for line in response.content:
            if line.startswith(b"data: "):
                event: Data = msgspec.json.decode(line[6:])["data"]["completionStream"]
                completion = str(event.get("completionId", completion))
                if event["__typename"] == "CompletionDelta":
                    response.close()
                    return completion
    raise AssertionError("it ended without a word")


async def first_words(socket: aiohttp.ClientWebSocketResponse, variables: Data) -> str:
    """Subscribes, and returns the id once there are words."""
    completion = ""
    await socket.send_json({"type": "connection_init"})
    await socket.send_json({"id": "1", "type": "subscribe", "payload": {"query": STREAM, "variables": variables}})
    async with asyncio.timeout(20):
        while True:
            frame = await socket.receive_json()
            if frame["type"] == "next":
                event: Data = frame["payload"]["data"]["completionStream"]
                completion = str(event.get("completionId", completion))
                if event["__typename"] == "CompletionDelta":
                    return completion


Leave: TypeAlias = Callable[[aiohttp.ClientSession, str, Data], Awaitable[str]]
LEAVES: tuple[Leave, ...] = (complete_over_websocket, close_websocket, drop_websocket, close_sse)
WISHES = ("CANCEL", "CONTINUE", None)
TIMES = 3
"""Of each, so that both processes have some."""


@dataclass(frozen=True)
class Seen:
    ended: Mapping[tuple[Leave, str | None], list[Data]]
    budget: Data


async def leave_all(server: RunningServer) -> Seen:
    assert server.key is not None
    headers = {"Authorization": f"Bearer {server.key}"}
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        client = Client(session, server, server.key)
        await client.execute(BUDGET)

        async def one(leave: Leave, wish: str | None) -> Data:
            completion = await leave(session, server.url, asked(wish))
            async with asyncio.timeout(30):
                while True:
                    found: Any = (await client.execute(COMPLETION, {"id": completion}))["completion"]
                    if found["status"] != "RUNNING":
                        return dict(found)
                    await asyncio.sleep(0.05)

        cases = [(leave, wish) for leave, wish in product(LEAVES, WISHES) for _ in range(TIMES)]
        ended = await asyncio.gather(*(one(leave, wish) for leave, wish in cases))
        budgets: Any = await client.execute(BUDGETS)
    found: dict[tuple[Leave, str | None], list[Data]] = {}
    for case, completion in zip(cases, ended, strict=True):
        found.setdefault(case, []).append(completion)
    return Seen(found, budgets["budgets"]["nodes"][0])


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder: Path = tmp_path_factory.mktemp("leaving")
    with start_server(folder / "data", "--workers", "2") as server:
        yield asyncio.run(leave_all(server))


class TestAClientThatLeaves:
    @pytest.mark.parametrize("leave", LEAVES, ids=lambda leave: leave.__name__)
    def test_cancels_its_call_if_it_asked_for_that(self, seen: Seen, leave: Leave) -> None:
        for completion in seen.ended[leave, "CANCEL"]:
            assert completion["status"] == "CANCELLED"
            assert completion["text"]
            assert completion["usage"]["outputTokens"] < 20

    @pytest.mark.parametrize("leave", LEAVES, ids=lambda leave: leave.__name__)
    @pytest.mark.parametrize("wish", ["CONTINUE", None])
    def test_leaves_its_call_running_otherwise(self, seen: Seen, leave: Leave, wish: str | None) -> None:
        for completion in seen.ended[leave, wish]:
            assert completion["status"] == "FINISHED"
            assert completion["usage"]["outputTokens"] == 20

    def test_pays_for_what_was_produced_and_holds_nothing(self, seen: Seen) -> None:
        spent = sum(Decimal(each["costUsd"]) for completions in seen.ended.values() for each in completions)
        assert (seen.budget["heldUsd"], Decimal(seen.budget["spentUsd"])) == ("0", spent)
