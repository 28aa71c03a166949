"""Answers in JSON from both adapters: cut by the cap, or in a Markdown fence, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from app.domain.errors import FailureKind, ProviderError
from app.llm.messages import Answer, FinishReason, Json, JsonObjectFormat, JsonSchemaFormat, ResponseFormat
from app.llm.providers.adapter import CUT_JSON, Adapter
from app.llm.providers.json_text import FENCED
from app.settings import ProviderKindName
from tests.app.llm.calls import ANTHROPIC, COMPATIBLE, adapter, call, end_of, parts_of, streamed_text

pytestmark = pytest.mark.anyio
SCHEMA: dict[str, Json] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
FORMATS = [JsonObjectFormat(), JsonSchemaFormat("count", SCHEMA)]


def openai_body(text: str, finish: str) -> object:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 30, "total_tokens": 39}}


def openai_events(text: str, finish: str) -> Sequence[object]:
    pieces = [text[at : at + 5] for at in range(0, len(text), 5)]
    chunks = [{"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]} for piece in pieces]
    usage = {"prompt_tokens": 9, "completion_tokens": 30, "total_tokens": 39}
    return [*chunks, {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}, {"choices": [], "usage": usage}]


def anthropic_body(text: str, stop_reason: str) -> object:
    usage = {"input_tokens": 9, "output_tokens": 30}
    return {"type": "message", "content": [{"type": "text", "text": text}], "stop_reason": stop_reason, "usage": usage}


def anthropic_events(block: dict[str, object], deltas: Sequence[dict[str, str]], stop_reason: str) -> Sequence[object]:
    return [
        {"type": "message_start", "message": {"content": [], "usage": {"input_tokens": 9, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": {"output_tokens": 30}},
        {"type": "message_stop"},
    ]


def anthropic_text_events(text: str, stop_reason: str) -> Sequence[object]:
    pieces = [text[at : at + 5] for at in range(0, len(text), 5)]
    return anthropic_events(
        {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces], stop_reason
    )


@asynccontextmanager
async def serving(kind: ProviderKindName, body: object, events: Sequence[object]) -> AsyncIterator[Adapter]:
    async def handle(request: web.Request) -> web.StreamResponse:
        if not (await request.json()).get("stream"):
            return web.json_response(body)
        frames = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return web.Response(text=frames, content_type="text/event-stream")

    application = web.Application()
    application.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    provider = adapter(kind, f"http://{host}:{port}", simulated=False)
    try:
        yield provider
    finally:
        await provider.close()
        await runner.cleanup()


async def answer_of(provider: Adapter, wanted: ResponseFormat, *, streamed: bool) -> Answer:
    """Its text must be what was shown."""
    fields: dict[str, Any] = {"response_format": wanted}
    if not streamed:
        return await provider.complete(call("some-model", **fields))
    parts = await parts_of(provider, call("some-model", **fields))
    answer = end_of(parts).answer
    assert streamed_text(parts) == (answer.text or "")
    return answer


async def read(kind: ProviderKindName, text: str, finish: str, wanted: ResponseFormat, *, streamed: bool) -> Answer:
    if kind is ANTHROPIC:
        finish = {"stop": "end_turn", "length": "max_tokens"}[finish]
        server = serving(kind, anthropic_body(text, finish), anthropic_text_events(text, finish))
    else:
        server = serving(kind, openai_body(text, finish), openai_events(text, finish))
    async with server as provider:
        return await answer_of(provider, wanted, streamed=streamed)


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("wanted", FORMATS, ids=["any object", "schema"])
@pytest.mark.parametrize("kind", [ANTHROPIC, COMPATIBLE])
class TestAnAnswerInJson:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ('{"n": 1, "a": "cut', '{"n": 1, "a": "cut'),
            ('Here:\n```json\n{"n": 1, "a": "cut', '{"n": 1, "a": "cut'),
            ("No JSON so far", "No JSON so far"),
            ('{"n": 1}', '{"n": 1}'),
        ],
        ids=["JSON", "in a fence", "words", "whole"],
    )
    async def test_that_the_cap_cut_is_length_with_what_came(
        self, kind: ProviderKindName, wanted: ResponseFormat, text: str, shown: str, *, streamed: bool
    ) -> None:
        answer = await read(kind, text, "length", wanted, streamed=streamed)

        assert (answer.text, answer.finish_reason) == (shown, FinishReason.LENGTH)
        assert CUT_JSON in answer.notes
        assert (answer.usage.output_tokens, answer.usage.confirmed) == (30, True)

    @pytest.mark.parametrize(
        ("text", "notes"),
        [
            ('```json\n{"n": 1}\n```', (FENCED,)),
            ('Here it is:\n```\n{"n": 1}\n```\nDone.', (FENCED,)),
            ('\ufeff{"n": 1}', ()),
            ('\n\n{"n": 1}', ()),
        ],
    )
    async def test_is_read_without_what_stands_around_it(
        self, kind: ProviderKindName, wanted: ResponseFormat, text: str, notes: tuple[str, ...], *, streamed: bool
    ) -> None:
        answer = await read(kind, text, "stop", wanted, streamed=streamed)

        assert (answer.text, answer.finish_reason) == ('{"n": 1}', FinishReason.STOP)
        assert tuple(note for note in answer.notes if "system message" not in note) == notes

    @pytest.mark.parametrize("text", ['```json\n["n"]\n```', "no JSON", 'Here: {"n": 1}', '{"n": 1} Done.', '{"n": 1', ""])
    async def test_that_is_not_what_was_asked_for_fails(
        self, kind: ProviderKindName, wanted: ResponseFormat, text: str, *, streamed: bool
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await read(kind, text, "stop", wanted, streamed=streamed)

        assert caught.value.kind in {FailureKind.SCHEMA_MISMATCH, FailureKind.MALFORMED}
        assert caught.value.usage is not None


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
async def test_an_answer_by_tool_that_the_cap_cut_is_length(*, streamed: bool) -> None:
    block: dict[str, object] = {"type": "tool_use", "id": "t", "name": "json_answer", "input": {}}
    usage = {"input_tokens": 9, "output_tokens": 30}
    body = {"content": [{**block, "input": {"n": 1}}], "stop_reason": "max_tokens", "usage": usage}
    pieces = [{"type": "input_json_delta", "partial_json": piece} for piece in ('{"n"', ": 1")]
    async with serving(ANTHROPIC, body, anthropic_events(block, pieces, "max_tokens")) as provider:
        answer = await answer_of(provider, JsonObjectFormat(), streamed=streamed)

    assert (answer.text, answer.finish_reason) == ('{"n": 1' if streamed else '{"n": 1}', FinishReason.LENGTH)
    assert answer.notes == (CUT_JSON,)
