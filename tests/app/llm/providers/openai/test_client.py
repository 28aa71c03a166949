"""What is OpenAI's alone: embeddings, and servers that speak its protocol with fewer words."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web

from app.domain.errors import FailureKind, ProviderError
from app.llm.messages import EmbedCall, FinishReason
from app.llm.providers.adapter import Adapter
from app.runtime.clock import SystemClock
from app.settings import ProviderTimeouts
from tests.app.llm.calls import ANTHROPIC, COMPATIBLE, OPENAI, WEATHER, adapter, call, end_of, parts_of, streamed_text
from tests.simulators import RunningSimulator

pytestmark = pytest.mark.anyio
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def embed(model: str, *texts: str, dimensions: int | None = None) -> EmbedCall:
    return EmbedCall(model, texts, SystemClock().monotonic() + 10, dimensions)


@asynccontextmanager
async def serving(handler: Handler, **fields: Any) -> AsyncIterator[Adapter]:
    """A compatible server that answers every POST by `handler`."""
    application = web.Application()
    application.router.add_post("/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    provider = adapter(COMPATIBLE, f"http://{host}:{port}/v1", simulated=False, **fields)
    try:
        yield provider
    finally:
        await provider.close()
        await runner.cleanup()


def chunk(text: str | None = None, finish: str | None = None, **fields: Any) -> bytes:
    delta = {"content": text} if text is not None else {}
    body = {"model": "local", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **fields}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def streaming(*pieces: bytes, hold: asyncio.Event | None = None) -> Handler:
    """Sends the pieces; keeps the connection open until `hold` is set."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        if hold is not None:
            await hold.wait()
        return response

    return handle


def pinging(*pieces: bytes) -> Handler:
    """Sends the pieces, then signs of life until the client leaves."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        with suppress(ConnectionError):
            for _ in range(1000):
                await response.write(b": ping\n\n")
                await asyncio.sleep(0.02)
        return response

    return handle


def answering(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Handler:
    async def handle(_: web.Request) -> web.StreamResponse:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(body=raw, status=status, headers={"content-type": "application/json", **(headers or {})})

    return handle


class TestEmbeddings:
    async def test_have_the_length_asked_for(self, simulator: RunningSimulator) -> None:
        provider = adapter(OPENAI, simulator.openai_url)

        embedded = await provider.embed(embed("text-embedding-3-small", "one", "two", "one", dimensions=16))

        assert [len(vector) for vector in embedded.vectors] == [16, 16, 16]
        assert embedded.vectors[0] == embedded.vectors[2] != embedded.vectors[1]
        assert (embedded.usage.confirmed, embedded.usage.output_tokens) == (True, 0)
        assert embedded.usage.input_tokens > 0
        assert embedded.provider_request_id
        await provider.close()

    @pytest.mark.parametrize(
        ("fault", "reported"), [("cut", FailureKind.TRUNCATED), ("disconnect-billed", FailureKind.CONNECTION)]
    )
    async def test_that_break_off_are_charged_at_an_estimate(
        self, simulator: RunningSimulator, fault: str, reported: FailureKind
    ) -> None:
        provider = adapter(OPENAI, simulator.openai_url)
        simulator.post(fault)

        with pytest.raises(ProviderError) as caught:
            await provider.embed(embed("text-embedding-3-small", "one", "two"))

        assert caught.value.kind is reported
        assert caught.value.usage is not None
        assert (caught.value.usage.confirmed, caught.value.usage.input_tokens) == (False, 2)
        await provider.close()

    @pytest.mark.parametrize("encoded", [True, False])
    async def test_come_in_the_order_of_the_texts(self, *, encoded: bool) -> None:
        def vector(*values: float) -> object:
            return b64encode(struct.pack(f"<{len(values)}f", *values)).decode() if encoded else list(values)

        data = [{"index": 1, "embedding": vector(0.5, 1.0)}, {"index": 0, "embedding": vector(0.25, 2.0)}]
        async with serving(answering({"data": data})) as provider:
            embedded = await provider.embed(embed("local", "a", "b"))

        assert embedded.vectors == ((0.25, 2.0), (0.5, 1.0))
        assert (embedded.usage.confirmed, embedded.usage.input_tokens, embedded.model) == (False, 2, "local")

    @pytest.mark.parametrize(
        "data",
        [
            [],
            [{"embedding": []}],
            [{"embedding": "no base64!"}],
            [{"embedding": "YWJj"}],
            [{"embedding": b64encode(struct.pack("<f", float("nan"))).decode()}],
            [{"embedding": [1.0]}, {"embedding": [2.0]}],
        ],
    )
    async def test_that_cannot_be_read_are_malformed(self, data: object) -> None:
        async with serving(answering({"data": data})) as provider:
            with pytest.raises(ProviderError) as caught:
                await provider.embed(embed("local", "a"))

        assert caught.value.kind is FailureKind.MALFORMED

    async def test_of_another_length_do_not_go_unnoticed(self) -> None:
        body = {"data": [{"embedding": [1.0, 2.0]}], "usage": {"prompt_tokens": 3, "total_tokens": 3}}
        async with serving(answering(body)) as provider:
            with pytest.raises(ProviderError) as caught:
                await provider.embed(embed("local", "a", dimensions=3))

        assert caught.value.kind is FailureKind.SCHEMA_MISMATCH
        assert caught.value.usage is not None
        assert caught.value.usage.input_tokens == 3

    async def test_anthropic_has_none(self) -> None:
        provider = adapter(ANTHROPIC, "http://127.0.0.1:9")

        with pytest.raises(ProviderError) as caught:
            await provider.embed(embed("claude-sonnet-5-5", "a"))

        assert caught.value.kind is FailureKind.MODEL_NOT_FOUND
        await provider.close()


class TestACompatibleStream:
    async def test_is_whole_at_its_usage_though_the_server_keeps_the_connection(self) -> None:
        hold = asyncio.Event()
        usage = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}\n\n'
        async with serving(streaming(chunk("whole"), chunk(finish="stop"), usage, hold=hold)) as provider:
            async with asyncio.timeout(0.9):
                answer = end_of(await parts_of(provider, call("local"))).answer
            hold.set()

        assert (answer.text, answer.usage.total_tokens, answer.usage.confirmed) == ("whole", 7, True)

    async def test_waits_a_moment_for_usage_that_never_comes(self) -> None:
        hold = asyncio.Event()
        async with serving(streaming(chunk("whole"), chunk(finish="stop"), hold=hold)) as provider:
            answer = end_of(await parts_of(provider, call("local"))).answer
            hold.set()

        assert (answer.text, answer.usage.confirmed) == ("whole", False)

    @pytest.mark.parametrize("tail", [b"data: [DONE]\n\n", b"data: [DONE]", b"data:[DONE]\r\n\r\n"])
    async def test_without_a_finish_reason_is_whole_with_done(self, tail: bytes) -> None:
        async with serving(streaming(chunk("whole"), tail)) as provider:
            answer = end_of(await parts_of(provider, call("local"))).answer

        assert (answer.text, answer.finish_reason, len(answer.notes)) == ("whole", FinishReason.STOP, 1)

    @pytest.mark.parametrize("pieces", [(chunk("ha"),), (chunk("ha"), b'data: {"choices": [{"del'), (chunk("ha"), b"data: [DO")])
    async def test_with_neither_is_truncated(self, pieces: tuple[bytes, ...]) -> None:
        async with serving(streaming(*pieces)) as provider:
            with pytest.raises(ProviderError) as caught:
                await parts_of(provider, call("local"))

        assert caught.value.kind is FailureKind.TRUNCATED
        assert caught.value.usage is not None

    async def test_with_an_error_in_its_midst_fails_by_what_it_says(self) -> None:
        error = b'data: {"error": {"message": "boom", "type": "InternalServerError", "code": 503}}\n\n'
        async with serving(streaming(chunk("ha"), error)) as provider:
            with pytest.raises(ProviderError) as caught:
                await parts_of(provider, call("local"))

        assert (caught.value.kind, caught.value.status_code) == (FailureKind.OVERLOADED, 503)

    async def test_of_chunks_cut_anywhere_is_read_whole(self) -> None:
        body = chunk("Zür") + chunk("ich") + chunk(finish="stop") + b"data: [DONE]\n\n"
        pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
        async with serving(streaming(*pieces)) as provider:
            parts = await parts_of(provider, call("local"))

        assert streamed_text(parts) == end_of(parts).answer.text == "Zürich"

    async def test_that_pings_for_ever_is_left_at_the_first_token_timeout(self) -> None:
        short = ProviderTimeouts(first_token=timedelta(seconds=0.3))
        async with serving(pinging(), timeouts=short) as provider:
            with pytest.raises(ProviderError) as caught:
                await parts_of(provider, call("local"))

        assert caught.value.kind is FailureKind.FIRST_TOKEN_TIMEOUT

    async def test_that_is_whole_and_pings_for_ever_is_left_after_a_moment(self) -> None:
        async with serving(pinging(chunk("whole"), chunk(finish="stop"))) as provider, asyncio.timeout(10):
            answer = end_of(await parts_of(provider, call("local", seconds=60))).answer

        assert (answer.text, answer.usage.confirmed) == ("whole", False)

    async def test_may_leave_out_the_index_of_a_tool_call_that_it_reported_before(self) -> None:
        def reported(**fields: object) -> bytes:
            return b"data: " + json.dumps({"choices": [{"delta": {"tool_calls": [fields]}}]}).encode() + b"\n\n"

        pieces = (
            reported(index=1, id="a", function={"name": "weather", "arguments": "{"}),
            reported(id="a", function={"arguments": "}"}),
            reported(id="b", function={"name": "weather", "arguments": "{}"}),
        )
        async with serving(streaming(*pieces, chunk(finish="tool_calls"), b"data: [DONE]\n\n")) as provider:
            answer = end_of(await parts_of(provider, call("local", tools=(WEATHER,)))).answer

        assert [(made.id, made.arguments) for made in answer.tool_calls] == [("a", "{}"), ("b", "{}")]


class TestACompatibleAnswer:
    async def test_may_leave_out_nearly_everything(self) -> None:
        made = {"function": {"name": "weather", "arguments": {"city": "Basel"}}}
        async with serving(answering({"choices": [{"message": {"tool_calls": [made]}}]})) as provider:
            answer = await provider.complete(call("local", tools=(WEATHER,)))

        assert [(each.name, each.arguments) for each in answer.tool_calls] == [("weather", '{"city":"Basel"}')]
        assert (answer.finish_reason, answer.model, answer.usage.confirmed) == (FinishReason.TOOL_CALLS, "local", False)
        assert answer.tool_calls[0].id.startswith("call_")

    async def test_may_be_compressed_though_not_asked_to(self) -> None:
        body = json.dumps({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}).encode()
        async with serving(answering(gzip.compress(body), headers={"content-encoding": "gzip"})) as provider:
            answer = await provider.complete(call("local"))

        assert answer.text == "hi"

    async def test_that_is_badly_compressed_is_malformed(self) -> None:
        async with serving(answering(b"not gzip", headers={"content-encoding": "gzip"})) as provider:
            with pytest.raises(ProviderError) as caught:
                await provider.complete(call("local"))

        assert caught.value.kind is FailureKind.MALFORMED

    @pytest.mark.parametrize("body", [{}, {"choices": []}, [], {"choices": [{"message": None}]}, b"<html>", b""])
    async def test_of_another_shape_is_malformed(self, body: object) -> None:
        async with serving(answering(body)) as provider:
            with pytest.raises(ProviderError) as caught:
                await provider.complete(call("local"))

        assert caught.value.kind is FailureKind.MALFORMED

    async def test_is_never_a_redirect(self) -> None:
        async with serving(answering({}, 307, {"location": "http://127.0.0.1:9/"})) as provider:
            with pytest.raises(ProviderError) as caught:
                await provider.complete(call("local"))

        assert (caught.value.kind, caught.value.status_code) == (FailureKind.SERVER_ERROR, 307)


class TestAServerWithoutKeys:
    async def test_is_sent_none(self) -> None:
        seen: list[str | None] = []

        async def handle(request: web.Request) -> web.StreamResponse:
            seen.append(request.headers.get("authorization"))
            return await answering({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]})(request)

        async with serving(handle) as provider:
            assert (await provider.complete(call("local"))).text == "hi"

        assert seen == [None]


def refusing(*names: str, asked: list[dict[str, Any]], status: int = 400) -> Handler:
    """Refuses each of the names, one at a time, and keeps every body."""

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        asked.append(body)
        name = next((name for name in names if name in body), None)
        if name is not None:
            return web.json_response({"error": {"message": f"Unrecognized request argument supplied: {name}"}}, status=status)
        if "input" in body:
            return web.json_response({"data": [{"index": 0, "embedding": [0.5, 0.25]}], "model": "local"})
        if body.get("stream"):
            return await streaming(chunk("Good day"), chunk(finish="stop"), b"data: [DONE]\n\n")(request)
        answer = {"message": {"content": "Good day"}, "finish_reason": "stop"}
        return web.json_response({"model": "local", "choices": [answer], "usage": {"prompt_tokens": 8, "completion_tokens": 2}})

    return handle


class TestParametersThatNoCallerCanSee:
    @pytest.mark.parametrize("status", [400, 422])
    async def test_are_left_out_of_a_stream_once_a_server_refuses_them(self, status: int) -> None:
        asked: list[dict[str, Any]] = []
        async with serving(refusing("stream_options", asked=asked, status=status)) as provider:
            first = await parts_of(provider, call("local"))
            again = await parts_of(provider, call("local"))

        assert streamed_text(first) == streamed_text(again) == "Good day"
        assert end_of(first).answer.notes == ()
        assert ["stream_options" in body for body in asked] == [True, False, False]

    async def test_are_left_out_of_embeddings_once_a_server_refuses_them(self) -> None:
        asked: list[dict[str, Any]] = []
        async with serving(refusing("encoding_format", asked=asked)) as provider:
            first = await provider.embed(embed("local", "a"))
            again = await provider.embed(embed("local", "a"))

        assert first.vectors == again.vectors == ((0.5, 0.25),)
        assert ["encoding_format" in body for body in asked] == [True, False, False]

    async def test_are_asked_of_every_model_anew(self) -> None:
        asked: list[dict[str, Any]] = []
        async with serving(refusing("encoding_format", asked=asked)) as provider:
            await provider.embed(embed("local", "a"))
            await provider.embed(embed("other", "a"))

        assert [body["model"] for body in asked] == ["local", "local", "other", "other"]

    @pytest.mark.parametrize("names", [("max_tokens",), ("max_tokens", "stream_options", "temperature")])
    async def test_a_cap_goes_by_its_other_name(self, names: tuple[str, ...]) -> None:
        asked: list[dict[str, Any]] = []
        async with serving(refusing(*names, asked=asked)) as provider:
            answer = end_of(await parts_of(provider, call("local", temperature=0.5))).answer

        assert answer.text == "Good day"
        assert asked[-1]["max_completion_tokens"] == 64
        assert len(asked) == len(names) + 1

    async def test_a_call_without_any_cap_is_never_sent(self) -> None:
        asked: list[dict[str, Any]] = []
        async with serving(refusing("max_tokens", "max_completion_tokens", asked=asked)) as provider:
            with pytest.raises(ProviderError) as caught:
                await provider.complete(call("local"))

        assert caught.value.kind is FailureKind.UNSUPPORTED
        assert not caught.value.counts_for_breaker
        assert all({"max_tokens", "max_completion_tokens"} & set(body) for body in asked)
