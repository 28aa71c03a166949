from __future__ import annotations

import asyncio

import pytest

from app.domain.errors import FailureKind, ProviderError
from app.domain.usage import TokenUsage
from app.llm.messages import AnswerEnd, EmbedCall, Embedded, TextDelta
from app.llm.provider import Provider
from app.llm.providers.scripted import Fail, Reply, ScriptedProvider, Vectors, text_answer
from tests.app.llm.calls import call, end_of, parts_of, streamed_text
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio
ERROR = ProviderError(FailureKind.OVERLOADED)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class TestAScript:
    async def test_is_followed_in_order_and_its_last_step_stays(self, clock: ManualClock) -> None:
        provider = ScriptedProvider("a", [Fail(ERROR), Reply(text_answer("hello"))], clock)

        with pytest.raises(ProviderError):
            await provider.complete(call("m", clock=clock))
        assert [(await provider.complete(call("m", clock=clock))).text for _ in range(2)] == ["hello", "hello"]
        assert len(provider.calls) == 3

    async def test_streams_word_by_word(self, clock: ManualClock) -> None:
        provider: Provider = ScriptedProvider("a", [Reply(text_answer("one two  three"))], clock)

        parts = await parts_of(provider, call("m", clock=clock))

        assert streamed_text(parts) == end_of(parts).answer.text == "one two  three"

    async def test_takes_its_time(self, clock: ManualClock) -> None:
        provider = ScriptedProvider("a", [Reply(text_answer("one two"), delay=5, gap=1)], clock)
        reading = asyncio.create_task(parts_of(provider, call("m", clock=clock)))

        await clock.advance(6.5)
        assert not reading.done()
        await clock.advance(1)
        assert isinstance((await reading)[-1], AnswerEnd)

    async def test_may_break_off(self, clock: ManualClock) -> None:
        provider = ScriptedProvider("a", [Fail(ERROR, first=(TextDelta("one"),))], clock)
        stream = provider.stream(call("m", clock=clock))

        assert await anext(stream) == TextDelta("one")
        with pytest.raises(ProviderError):
            await anext(stream)
        assert provider.open_streams == 0

    async def test_embeds_probes_and_closes(self, clock: ManualClock) -> None:
        embedded = Embedded(((1.0,),), TokenUsage(uncached_input_tokens=1), "m")
        provider = ScriptedProvider("a", [Vectors(embedded)], clock, probe_error=ERROR)

        assert await provider.embed(EmbedCall("m", ("a",), 1.0)) is embedded
        with pytest.raises(ProviderError):
            await provider.probe()
        await provider.close()
        assert (provider.probes, provider.closed) == (1, True)
