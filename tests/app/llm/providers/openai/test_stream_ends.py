"""When a streamed answer is over: what is waited for, for how long, and what a broken connection means."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from aiohttp import web

from app.domain.errors import FailureKind, ProviderError
from app.settings import ProviderTimeouts
from tests.app.llm.calls import call, end_of, parts_of, streamed_text
from tests.app.llm.providers.openai.test_client import Handler, chunk, pinging, serving, streaming

pytestmark = pytest.mark.anyio
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}\n\n'
IDLE = ProviderTimeouts(idle=timedelta(seconds=2))
SHORT_IDLE = ProviderTimeouts(idle=timedelta(seconds=0.3))


def breaking(*pieces: bytes) -> Handler:
    """Drops the connection after the pieces."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        assert request.transport is not None
        request.transport.abort()
        return response

    return handle


class SlowServer:
    """Sends each piece as long after the one before as its caller asks."""

    def __init__(self, *pieces: tuple[float, bytes]) -> None:
        self._pieces = pieces

    async def handle(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        async for piece in self._timed():
            await response.write(piece)
        return response

    async def _timed(self) -> AsyncIterator[bytes]:
        for seconds, piece in self._pieces:
            await asyncio.sleep(seconds)
            yield piece


class TestAFinishReasonInEveryChunk:
    async def test_is_no_end_while_text_still_comes(self) -> None:
        """Though the pause is longer than usage would be waited for."""
        server = SlowServer((0, chunk("Good ", "stop")), (1.3, chunk("day", "stop")), (0, USAGE + b"data: [DONE]\n\n"))
        async with serving(server.handle, timeouts=IDLE) as provider:
            parts = await parts_of(provider, call("local"))
        answer = end_of(parts).answer
        assert streamed_text(parts) == answer.text == "Good day"
        assert answer.usage.confirmed

    @pytest.mark.parametrize("held", ["silent", "pinging"])
    async def test_ends_the_answer_if_nothing_comes_any_more(self, held: str) -> None:
        hold = asyncio.Event()
        handler = pinging(chunk("whole", "stop")) if held == "pinging" else streaming(chunk("whole", "stop"), hold=hold)
        async with serving(handler, timeouts=SHORT_IDLE) as provider, asyncio.timeout(5):
            answer = end_of(await parts_of(provider, call("local", seconds=60))).answer
            hold.set()
        assert (answer.text, answer.usage.confirmed) == ("whole", False)

    async def test_does_not_make_a_broken_stream_whole(self) -> None:
        async with serving(breaking(chunk("Good ", "stop"), chunk("day", "stop"))) as provider:
            with pytest.raises(ProviderError) as caught:
                await parts_of(provider, call("local"))
        assert caught.value.kind is FailureKind.TRUNCATED
        assert caught.value.usage is not None


class TestAFinishReasonOfItsOwn:
    async def test_makes_an_answer_whole_though_its_connection_breaks(self) -> None:
        async with serving(breaking(chunk("whole"), chunk(finish="stop"))) as provider:
            answer = end_of(await parts_of(provider, call("local"))).answer
        assert (answer.text, answer.usage.confirmed) == ("whole", False)

    @pytest.mark.parametrize("last", [(b"data: [DONE]\n\n",), (USAGE,), (b"",)], ids=["done", "usage", "nothing"])
    async def test_is_waited_after_for_a_bounded_time(self, last: tuple[bytes, ...]) -> None:
        handler = pinging(chunk("whole"), chunk(finish="stop"), *last)
        begun = time.monotonic()
        async with serving(handler, timeouts=IDLE) as provider, asyncio.timeout(5):
            answer = end_of(await parts_of(provider, call("local", seconds=60))).answer
            assert time.monotonic() - begun < IDLE.idle.total_seconds()
        assert (answer.text, answer.usage.confirmed) == ("whole", last == (USAGE,))

    async def test_may_be_followed_by_more_words_after_all(self) -> None:
        pieces = (chunk("Good "), chunk(finish="stop"), USAGE, chunk("day"), chunk(finish="stop"), USAGE)
        async with serving(streaming(*pieces)) as provider:
            parts = await parts_of(provider, call("local"))
        assert streamed_text(parts) == end_of(parts).answer.text == "Good day"
        async with serving(streaming(*pieces[:4])) as provider:
            with pytest.raises(ProviderError) as caught:
                await parts_of(provider, call("local"))
        assert caught.value.kind is FailureKind.TRUNCATED
