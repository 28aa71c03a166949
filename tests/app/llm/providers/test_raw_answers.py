"""Answers byte by byte, as a server may send them: heads that HTTP does not know, encodings that are named and not used, bodies
that break off. Whatever a provider may have billed costs something, what it refuses costs nothing, and both are typed."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx2
import msgspec
import pytest

from app.domain.errors import FailureKind, ProviderError
from app.llm.failures import may_have_arrived
from app.llm.messages import Answer, EmbedCall
from app.llm.providers.adapter import Adapter
from app.settings import ProviderKindName
from tests.app.llm.calls import ANTHROPIC, COMPATIBLE, SHORT, adapter, call, end_of, parts_of
from tests.integration.payload_mutations import (
    ANTHROPIC_EVENTS,
    ANTHROPIC_WHOLE,
    OPENAI_EVENTS,
    OPENAI_WHOLE,
    TEXT,
    encode,
    encode_events,
)

pytestmark = pytest.mark.anyio

CAP = 4096
WHOLE = {ANTHROPIC: encode(ANTHROPIC_WHOLE), COMPATIBLE: encode(OPENAI_WHOLE)}
EVENTS = {
    ANTHROPIC: encode_events(ANTHROPIC_EVENTS, done=False),
    COMPATIBLE: encode_events(OPENAI_EVENTS, done=True),
}
FIGURES: dict[ProviderKindName, dict[str, int]] = {
    ANTHROPIC: {"input_tokens": 1000, "output_tokens": 500},
    COMPATIBLE: {"prompt_tokens": 1000, "completion_tokens": 500},
}

VECTORS: Any = {"data": [{"embedding": [0.5, 1.5], "index": 0}], "usage": {"prompt_tokens": 8, "total_tokens": 8}}


def head(length: int, *lines: str, status: str = "200 OK", kind: str = "application/json") -> bytes:
    given = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {length}", *lines]
    return "\r\n".join([*given, "", ""]).encode("latin-1")


def sent(body: bytes, *lines: str, **fields: str) -> bytes:
    return head(len(body), *lines, **fields) + body


@asynccontextmanager
async def answering(kind: ProviderKindName, raw: bytes, *, is_silent: bool = False) -> AsyncIterator[tuple[Adapter, list[bytes]]]:
    """An adapter whose server answers every request with these bytes and then breaks off, or is silent; and what was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begin = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in begin.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        asked.append(await reader.readexactly(length))
        writer.write(raw)
        await writer.drain()
        if is_silent:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    path = "" if kind is ANTHROPIC else "/v1"
    provider = adapter(kind, f"http://127.0.0.1:{port}{path}", simulated=False, timeouts=SHORT, api_keys=())
    try:
        yield provider, asked
    finally:
        await provider.close()
        server.close()


async def ask(provider: Adapter, *, streamed: bool) -> Answer | ProviderError:
    wanted = call("some-model", max_output_tokens=CAP)
    try:
        return end_of(await parts_of(provider, wanted)).answer if streamed else await provider.complete(wanted)
    except ProviderError as error:
        return error


@pytest.fixture(params=[ANTHROPIC, COMPATIBLE], ids=["anthropic", "openai"])
def kind(request: pytest.FixtureRequest) -> ProviderKindName:
    chosen: ProviderKindName = request.param
    return chosen


STREAMED = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


class TestAHeadThatCannotBeRead:
    @STREAMED
    @pytest.mark.parametrize(
        "line", ["X-Debug: " + "y" * 9000, "X-Debug", "Content-Length: many", "X Debug: 1", "Transfer-Encoding: klingon"]
    )
    async def test_is_charged_an_estimate_and_not_asked_again(self, kind: ProviderKindName, line: str, *, streamed: bool) -> None:
        body = WHOLE[kind]
        async with answering(kind, head(len(body), line) + body) as (provider, _):
            found = await ask(provider, streamed=streamed)
        if isinstance(found, Answer):
            assert found.text == TEXT
            return
        assert found.usage is not None
        assert (found.usage.input_tokens > 0, found.usage.confirmed, found.was_bought) == (True, False, True)
        assert found.usage.output_tokens < CAP

    @STREAMED
    @pytest.mark.parametrize("status", ["200 R\xe9ussi", "200", "200 " + "x" * 9000, "2000 OK", "abc OK"])
    async def test_may_be_its_first_line(self, kind: ProviderKindName, status: str, *, streamed: bool) -> None:
        async with answering(kind, sent(WHOLE[kind], status=status)) as (provider, _):
            found = await ask(provider, streamed=streamed)
        if isinstance(found, ProviderError):
            assert found.usage is not None
            assert (found.was_bought, found.kind) == (True, FailureKind.MALFORMED)


class TestAnEncoding:
    @STREAMED
    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, br", "klingon", ""])
    async def test_that_is_named_and_not_used_costs_nothing_of_the_answer(
        self, kind: ProviderKindName, encoding: str, *, streamed: bool
    ) -> None:
        body = EVENTS[kind] if streamed else WHOLE[kind]
        content = "text/event-stream" if streamed else "application/json"
        async with answering(kind, sent(body, f"Content-Encoding: {encoding}", kind=content)) as (provider, _):
            found = await ask(provider, streamed=streamed)
        assert isinstance(found, Answer)
        assert (found.text, found.usage.confirmed) == (TEXT, True)

    @STREAMED
    async def test_that_is_used_is_read(self, kind: ProviderKindName, *, streamed: bool) -> None:
        body = gzip.compress(EVENTS[kind] if streamed else WHOLE[kind])
        content = "text/event-stream" if streamed else "application/json"
        async with answering(kind, sent(body, "Content-Encoding: gzip", kind=content)) as (provider, _):
            found = await ask(provider, streamed=streamed)
        assert isinstance(found, Answer)
        assert found.text == TEXT

    async def test_that_breaks_off_is_charged_what_came(self, kind: ProviderKindName) -> None:
        body = gzip.compress(WHOLE[kind])
        async with answering(kind, sent(body, "Content-Encoding: gzip")[:-40]) as (provider, _):
            found = await ask(provider, streamed=False)
        assert isinstance(found, ProviderError)
        assert found.usage is not None
        assert found.usage.total_tokens > 0


class TestABodyThatBreaksOff:
    @pytest.mark.parametrize("is_silent", [False, True])
    @pytest.mark.parametrize("length", [0, 1, 40, -1])
    async def test_costs_its_input_and_what_came(self, kind: ProviderKindName, length: int, *, is_silent: bool) -> None:
        body = WHOLE[kind]
        raw = head(len(body)) + body[:length]
        async with answering(kind, raw, is_silent=is_silent) as (provider, _):
            found = await ask(provider, streamed=False)
        assert isinstance(found, ProviderError)
        assert found.usage is not None
        assert found.usage.input_tokens > 0
        assert found.usage.output_tokens <= 500

    @pytest.mark.parametrize("is_silent", [False, True])
    async def test_after_the_answer_is_the_answer(self, kind: ProviderKindName, *, is_silent: bool) -> None:
        for body, content in ((WHOLE[kind], "application/json"), (EVENTS[kind], "text/event-stream")):
            async with answering(kind, head(len(body) + 9, kind=content) + body, is_silent=is_silent) as (provider, asked):
                found = await ask(provider, streamed=False)
            assert isinstance(found, Answer)
            assert (found.text, found.usage.output_tokens, found.usage.confirmed, len(asked)) == (TEXT, 500, True, 1)

    async def test_in_the_middle_of_events_costs_what_they_brought_and_confirms_nothing(self, kind: ProviderKindName) -> None:
        events = ANTHROPIC_EVENTS[:5] if kind is ANTHROPIC else OPENAI_EVENTS[:3]
        body = encode_events(events, done=False)
        async with answering(kind, head(len(body) + 9, kind="text/event-stream") + body) as (provider, _):
            found = await ask(provider, streamed=False)
        assert isinstance(found, ProviderError)
        assert found.usage is not None
        assert found.usage.input_tokens == (1000 if kind is ANTHROPIC else 7)
        assert (1 < found.usage.output_tokens < 10, found.usage.confirmed) == (True, False)


class TestAnErrorStatus:
    @STREAMED
    @pytest.mark.parametrize("status", ["400 Bad", "429 Slow", "500 Odd", "503 Busy"])
    async def test_costs_the_figures_that_it_gives(self, kind: ProviderKindName, status: str, *, streamed: bool) -> None:
        body = encode({"type": "error", "error": {"type": "x", "message": "the words"}, "usage": FIGURES[kind]})
        async with answering(kind, sent(body, status=status)) as (provider, _):
            found = await ask(provider, streamed=streamed)
        assert isinstance(found, ProviderError)
        assert found.usage is not None
        assert (found.usage.input_tokens, found.usage.output_tokens, found.usage.confirmed) == (1000, 500, True)
        assert "the words" not in f"{found!r}{vars(found)}"

    @STREAMED
    @pytest.mark.parametrize("figures", [None, {}, {"prompt_tokens": 0, "completion_tokens": 0, "input_tokens": 0}, "x"])
    async def test_costs_nothing_without_them(self, kind: ProviderKindName, figures: object, *, streamed: bool) -> None:
        body = encode({"error": {"message": "no"}, "usage": figures})
        async with answering(kind, sent(body, status="503 Busy")) as (provider, _):
            found = await ask(provider, streamed=streamed)
        assert isinstance(found, ProviderError)
        assert (found.kind, found.usage) == (FailureKind.OVERLOADED, None)

    @STREAMED
    @pytest.mark.parametrize("is_silent", [False, True])
    async def test_is_the_failure_also_if_its_body_breaks_off(
        self, kind: ProviderKindName, *, streamed: bool, is_silent: bool
    ) -> None:
        raw = head(500, "Retry-After: 7", status="429 Slow") + b'{"error": {"mess'
        async with answering(kind, raw, is_silent=is_silent) as (provider, _):
            found = await ask(provider, streamed=streamed)
        assert isinstance(found, ProviderError)
        assert (found.kind, found.status_code, found.usage) == (FailureKind.RATE_LIMITED, 429, None)
        assert found.retry_after is not None

    @STREAMED
    async def test_is_the_failure_also_if_it_names_an_encoding_that_it_does_not_use(
        self, kind: ProviderKindName, *, streamed: bool
    ) -> None:
        raw = sent(encode({"error": {"message": "no"}}), "Content-Encoding: gzip", status="500 Odd")
        async with answering(kind, raw) as (provider, _):
            found = await ask(provider, streamed=streamed)
        assert isinstance(found, ProviderError)
        assert (found.kind, found.status_code, found.usage) == (FailureKind.SERVER_ERROR, 500, None)


class TestAnErrorWithStatus200:
    @STREAMED
    async def test_costs_the_figures_that_it_gives(self, kind: ProviderKindName, *, streamed: bool) -> None:
        body = encode({"type": "error", "error": {"type": "x", "message": "no"}, "usage": FIGURES[kind]})
        async with answering(kind, sent(body)) as (provider, _):
            found = await ask(provider, streamed=streamed)
        assert isinstance(found, ProviderError)
        assert found.usage is not None
        assert (found.usage.input_tokens, found.usage.output_tokens, found.was_bought) == (1000, 500, True)

    async def test_after_the_events_of_an_answer_costs_what_they_brought(self, kind: ProviderKindName) -> None:
        events = [
            *(ANTHROPIC_EVENTS[:5] if kind is ANTHROPIC else OPENAI_EVENTS[:3]),
            {"type": "error", "error": {"type": "overloaded_error", "message": "no"}},
        ]
        async with answering(kind, sent(encode_events(events, done=False), kind="text/event-stream")) as (provider, _):
            found = await ask(provider, streamed=False)
        assert isinstance(found, ProviderError)
        assert found.kind is FailureKind.OVERLOADED
        assert found.usage is not None
        assert (found.usage.total_tokens > 0, found.was_bought) == (True, True)

    async def test_before_any_other_event_costs_nothing(self, kind: ProviderKindName) -> None:
        body = encode_events([{"type": "error", "error": {"type": "overloaded_error", "message": "no"}}], done=False)
        async with answering(kind, sent(body, kind="text/event-stream")) as (provider, _):
            found = await ask(provider, streamed=False)
        assert isinstance(found, ProviderError)
        assert (found.kind, found.usage) == (FailureKind.OVERLOADED, None)


class TestEmbeddings:
    async def embed(self, raw: bytes) -> object:
        async with answering(COMPATIBLE, raw) as (provider, _):
            wanted = EmbedCall(model="m", texts=("a",), deadline=call("m").deadline)
            try:
                return await provider.embed(wanted)
            except ProviderError as error:
                return error

    @pytest.mark.parametrize(
        "raw",
        [
            sent(encode(VECTORS)[:-1] + b',"x":NaN}'),
            sent(encode(VECTORS) + b"\n\0"),
            sent(encode([VECTORS])),
            sent(encode(VECTORS), "Content-Encoding: gzip"),
            sent(msgspec.json.encode(VECTORS).decode().encode("utf-16")),
            head(len(encode(VECTORS)) + 9) + encode(VECTORS),
            sent(encode({"data": VECTORS["data"], "x_usage": VECTORS["usage"]})),
        ],
        ids=["nan", "bytes after", "in a list", "false encoding", "utf-16", "cut after", "usage elsewhere"],
    )
    async def test_are_read_out_of_an_odd_body(self, raw: bytes) -> None:
        found: Any = await self.embed(raw)
        assert (found.vectors, found.usage.input_tokens, found.usage.confirmed) == (((0.5, 1.5),), 8, True)

    @pytest.mark.parametrize(
        ("raw", "tokens"),
        [
            (sent(encode({"error": {"message": "no"}, "usage": {"total_tokens": 8}})), 8),
            (sent(encode({"error": {"message": "no"}, "usage": {"total_tokens": 8}}), status="500 Odd"), 8),
            (sent(encode({"error": {"message": "no"}})), None),
            (sent(encode({"error": {"message": "no"}}), status="500 Odd"), None),
            (head(500), 1),
            (head(500, "X-Debug: " + "y" * 9000), 1),
            (sent(encode({**VECTORS, "data": [{"embedding": "x"}]})), 8),
        ],
    )
    async def test_that_cannot_be_had_cost_what_was_billed(self, raw: bytes, tokens: int | None) -> None:
        found = await self.embed(raw)
        assert isinstance(found, ProviderError)
        assert (None if found.usage is None else found.usage.total_tokens) == tokens


class TestWhatTheHttpClientRaises:
    UNSENT = (
        aiohttp.ClientConnectorError,
        aiohttp.ConnectionTimeoutError,
        aiohttp.ServerFingerprintMismatch,
        aiohttp.ClientHttpProxyError,
        aiohttp.InvalidURL,
        aiohttp.NonHttpUrlClientError,
        httpx2.PoolTimeout,
        httpx2.UnsupportedProtocol,
        httpx2.LocalProtocolError,
    )

    def test_is_before_the_request_or_may_be_billed(self) -> None:
        """Every class that the libraries have, also those that a later version adds."""
        for kind in (*_below(aiohttp.ClientError), *_below(httpx2.HTTPError), *_below(httpx2.StreamError), *_below(OSError)):
            error = kind.__new__(kind)
            assert may_have_arrived(error) is not issubclass(kind, self.UNSENT), kind


def _below(kind: type[BaseException]) -> set[type[BaseException]]:
    return {kind}.union(*(_below(inner) for inner in kind.__subclasses__()))
