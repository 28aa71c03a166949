"""A server that makes a field and then does not take it back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from app.domain.errors import ProviderError
from app.llm.messages import Message, ProviderState, Role, Text, ToolCall, ToolResult
from app.llm.providers.adapter import Adapter
from tests.app.llm.calls import COMPATIBLE, adapter, call, end_of, parts_of, user

pytestmark = pytest.mark.anyio
USAGE = {"prompt_tokens": 10, "completion_tokens": 5}


@dataclass
class Server:
    """Refuses a field of an assistant message, or of its tool calls, with `error`."""

    refused: str
    status: int
    error: dict[str, Any]
    asked: list[Any] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        turn = (await request.json())["messages"][1]
        self.asked.append(turn)
        if f'"{self.refused}"' in json.dumps(turn):
            return web.json_response(self.error, status=self.status)
        return web.json_response({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": USAGE})


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Adapter]:
    application = web.Application()
    application.router.add_post("/{path:.*}", server.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    provider = adapter(COMPATIBLE, f"http://{host}:{port}", simulated=True)
    try:
        yield provider
    finally:
        await provider.close()
        await runner.cleanup()


def state(**fields: object) -> ProviderState:
    return ProviderState("my-openai-compatible", "openai-compatible", json.dumps(fields))


MADE = ToolCall("a", "weather", "{}", state(extra_content={"signature": "SIG"}))
TURN = Message(
    Role.ASSISTANT,
    (Text("Wait."),),
    (MADE,),
    reasoning={"format": "openai-compatible", "reasoning": "hm", "reasoning_content": "hm"},
    provider_state=state(prefix=True, kept="SIG"),
)
CONVERSATION = (user("hi"), TURN, Message(Role.TOOL, tool_result=ToolResult("a", "rain")))
SERVERS = [
    Server(
        "reasoning",
        400,
        {
            "error": {
                "message": "'messages.1' : for 'role:assistant' : property 'reasoning' is unsupported",
                "type": "invalid_request_error",
            }
        },
    ),
    Server(
        "reasoning_content",
        422,
        {
            "detail": [
                {
                    "type": "extra_forbidden",
                    "loc": ["body", "messages", 1, "assistant", "reasoning_content"],
                    "msg": "Extra inputs are not permitted",
                }
            ]
        },
    ),
    Server("reasoning_content", 400, {"error": {"message": "Please remove the reasoning_content from your message."}}),
    Server("prefix", 422, {"message": "messages.1.prefix: Extra inputs are not permitted"}),
    Server("extra_content", 400, {"error": {"message": 'Unknown name "extra_content" at tool_calls[0]: Cannot find field.'}}),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("server", SERVERS, ids=lambda server: f"{server.refused}-{server.status}")
async def test_is_sent_the_message_without_it_and_remembered(server: Server, *, streamed: bool) -> None:
    server.asked.clear()
    async with serving(server) as provider:
        wanted = call("m", *CONVERSATION)
        for _ in range(2):
            answer = end_of(await parts_of(provider, wanted)).answer if streamed else await provider.complete(wanted)
            assert answer.notes == (f"Fields of earlier answers were left out: m does not take {server.refused} back.",)
    names = {"reasoning", "reasoning_content", "prefix", "kept", "extra_content"}
    sent = [{name for name in names if f'"{name}"' in json.dumps(turn)} for turn in server.asked]
    assert sent == [names, names - {server.refused}, names - {server.refused}]


async def test_that_refuses_for_another_reason_is_not_asked_again() -> None:
    server = Server(
        "reasoning", 400, {"error": {"message": "messages.1: the reasoning is wrong", "type": "invalid_request_error"}}
    )
    async with serving(server) as provider:
        with pytest.raises(ProviderError):
            await provider.complete(call("m", *CONVERSATION))
    assert len(server.asked) == 1
