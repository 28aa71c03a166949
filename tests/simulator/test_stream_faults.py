"""Every fault as the real SDKs tell it, and as the simulator's log has it."""

from __future__ import annotations

import json
import time

import anthropic
import httpx2
import openai
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import RawMessageStreamEvent
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

from tests.simulator.calls import FIFTY, GPT, claude_events, contents, deltas, gpt_chunks
from tests.simulators import RunningSimulator

pytestmark = pytest.mark.anyio


class TestMidStream:
    async def test_anthropic_cut(self, anthropic_client: AsyncAnthropic, simulator: RunningSimulator) -> None:
        simulator.post("cut")
        events: list[RawMessageStreamEvent] = []
        with pytest.raises(httpx2.RemoteProtocolError):
            await claude_events(anthropic_client, events)

        assert deltas(events) == 8
        self.was_billed_for(simulator, 8, "aborted")

    async def test_openai_cut(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post("cut")
        chunks: list[ChatCompletionChunk] = []
        with pytest.raises(openai.APIConnectionError):
            await gpt_chunks(openai_client, chunks)

        assert contents(chunks) == 8
        self.was_billed_for(simulator, 8, "aborted")

    async def test_cut_before_the_first_token(self, anthropic_client: AsyncAnthropic, simulator: RunningSimulator) -> None:
        simulator.post("cut-first")
        events: list[RawMessageStreamEvent] = []
        with pytest.raises(httpx2.RemoteProtocolError):
            await claude_events(anthropic_client, events)

        assert [event.type for event in events] == ["message_start", "content_block_start"]
        self.was_billed_for(simulator, 0, "aborted")

    async def test_truncated_streams_end_without_an_error(
        self, anthropic_client: AsyncAnthropic, openai_client: AsyncOpenAI, simulator: RunningSimulator
    ) -> None:
        simulator.post("truncate", "truncate")
        events: list[RawMessageStreamEvent] = []
        chunks: list[ChatCompletionChunk] = []
        await claude_events(anthropic_client, events)
        await gpt_chunks(openai_client, chunks)

        assert (deltas(events), events[-1].type) == (8, "content_block_delta")
        assert (contents(chunks), chunks[-1].choices[0].finish_reason) == (8, None)
        assert [(entry.output_tokens, entry.usage_sent) for entry in simulator.ended(2)] == [(8, False)] * 2

    async def test_anthropic_stall(self, anthropic_client: AsyncAnthropic, simulator: RunningSimulator) -> None:
        simulator.post("stall")
        events: list[RawMessageStreamEvent] = []
        with pytest.raises(httpx2.ReadTimeout):
            await claude_events(anthropic_client.with_options(timeout=0.2), events)

        assert deltas(events) == 8
        self.was_billed_for(simulator, 8, "disconnected")

    async def test_a_stall_can_end(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post({"fault": "stall", "after_tokens": 8, "stall_ms": 50})
        chunks: list[ChatCompletionChunk] = []
        await gpt_chunks(openai_client, chunks)

        assert contents(chunks) == 50
        assert chunks[-1].usage is not None

    async def test_malformed_chunk(
        self, anthropic_client: AsyncAnthropic, openai_client: AsyncOpenAI, simulator: RunningSimulator
    ) -> None:
        simulator.post("malformed", "malformed")
        events: list[RawMessageStreamEvent] = []
        chunks: list[ChatCompletionChunk] = []
        with pytest.raises(json.JSONDecodeError):
            await claude_events(anthropic_client, events)
        with pytest.raises(json.JSONDecodeError):
            await gpt_chunks(openai_client, chunks)

        assert deltas(events) == contents(chunks) == 8

    async def test_anthropic_error_event_has_status_200(
        self, anthropic_client: AsyncAnthropic, simulator: RunningSimulator
    ) -> None:
        simulator.post("stream-error")
        events: list[RawMessageStreamEvent] = []
        with pytest.raises(anthropic.APIStatusError) as raised:
            await claude_events(anthropic_client, events)

        assert (raised.value.status_code, raised.value.type) == (200, "overloaded_error")
        assert deltas(events) == 8
        self.was_billed_for(simulator, 8, "aborted")

    async def test_openai_error_object(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post("stream-error-first")
        chunks: list[ChatCompletionChunk] = []
        with pytest.raises(openai.APIError, match="Overloaded") as raised:
            await gpt_chunks(openai_client, chunks)

        assert (type(raised.value), raised.value.type) == (openai.APIError, "server_error")
        assert contents(chunks) == 0

    async def test_slow_drip_and_late_first_token(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post({"first_token_delay_ms": 60, "token_delay_ms": 20, "answer": {"tokens": 6}})
        began = time.monotonic()
        chunks: list[ChatCompletionChunk] = []
        await gpt_chunks(openai_client, chunks)

        assert time.monotonic() - began >= 0.060 + 5 * 0.020
        assert contents(chunks) == 6

    async def test_a_client_that_leaves_is_billed_for_what_was_made(
        self, openai_client: AsyncOpenAI, simulator: RunningSimulator
    ) -> None:
        simulator.post({"token_delay_ms": 20})
        stream = await openai_client.chat.completions.create(
            model=GPT, messages=[{"role": "user", "content": FIFTY}], stream=True
        )
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        await openai_client.close()

        (entry,) = simulator.ended(1)
        assert (entry.state, entry.billed, entry.usage_sent) == ("disconnected", True, False)
        assert 1 <= entry.output_tokens < 50

    @pytest.mark.parametrize("fault", ["no-done", "no-usage", "no-finish-reason"])
    async def test_openai_leaves_out(self, openai_client: AsyncOpenAI, simulator: RunningSimulator, fault: str) -> None:
        simulator.post(fault)
        async with openai_client.chat.completions.with_streaming_response.create(
            model=GPT, messages=[{"role": "user", "content": FIFTY}], stream=True, stream_options={"include_usage": True}
        ) as response:
            text = await response.text()

        assert ("data: [DONE]" in text) == (fault != "no-done")
        assert ('"completion_tokens":50' in text) == (fault != "no-usage")
        assert ('"finish_reason":"stop"' in text) == (fault != "no-finish-reason")
        assert simulator.ended(1)[0].usage_sent == (fault != "no-usage")

    async def test_a_stream_without_its_end_can_stay_open(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        simulator.post({"fault": "no_done", "stall_ms": 60_000})
        chunks: list[ChatCompletionChunk] = []
        with pytest.raises(openai.APITimeoutError):
            await gpt_chunks(openai_client.with_options(timeout=0.2), chunks)

        assert chunks[-1].usage is not None
        (entry,) = simulator.ended(1)
        assert (entry.state, entry.output_tokens) == ("disconnected", 50)

    async def test_anthropic_leaves_out_its_last_event(
        self, anthropic_client: AsyncAnthropic, simulator: RunningSimulator
    ) -> None:
        simulator.post("no-done")
        events: list[RawMessageStreamEvent] = []
        await claude_events(anthropic_client, events)

        assert events[-1].type == "message_delta"

    async def test_anthropic_leaves_out_usage_and_reason(
        self, anthropic_client: AsyncAnthropic, simulator: RunningSimulator
    ) -> None:
        simulator.post("no-usage", "no-finish-reason")
        first: list[RawMessageStreamEvent] = []
        second: list[RawMessageStreamEvent] = []
        await claude_events(anthropic_client, first)
        await claude_events(anthropic_client, second)

        assert first[-2].type == "message_delta"
        assert getattr(first[-2], "usage", None) is None
        assert second[-2].type == "message_delta"
        assert second[-2].delta.stop_reason is None

    def was_billed_for(self, simulator: RunningSimulator, tokens: int, state: str) -> None:
        (entry,) = simulator.ended(1)
        assert (entry.state, entry.billed, entry.usage_sent, entry.output_tokens) == (state, True, False, tokens)
