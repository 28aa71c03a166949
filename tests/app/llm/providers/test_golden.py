"""Payloads of both wire formats, kept as files: the SDKs' own types say that they are real, and we read them right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from anthropic.types import Message as AnthropicMessage
from anthropic.types import RawMessageStreamEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from app.domain.errors import FailureKind, ProviderError
from app.domain.usage import TokenUsage
from app.llm.messages import ContentDelta, FinishReason, ModelCall, TextDelta, ToolCall, ToolCallDelta
from app.llm.providers.answers import WholeAnswer
from app.llm.providers.anthropic import response as anthropic_response
from app.llm.providers.anthropic.stream import AnthropicStream
from app.llm.providers.openai import response as openai_response
from app.llm.providers.openai.stream import OpenAIStream
from app.llm.providers.sse import SseReader
from app.llm.providers.stream_reader import StreamReader
from app.llm.providers.unsupported import Notes
from tests.app.llm.calls import call

GOLDEN = Path(__file__).parents[3] / "golden"
CALL = call("some-model")


def raw(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def payloads(name: str) -> Iterator[bytes]:
    reader = SseReader()
    yield from reader.feed(raw(name))
    yield from reader.flush()


def read(reader: StreamReader, name: str) -> tuple[list[ContentDelta], WholeAnswer]:
    parts = [part for payload in payloads(name) for part in reader.read(payload)]
    assert reader.complete
    return parts, reader.answer()


def whole(name: str, wanted: ModelCall = CALL) -> WholeAnswer:
    if name.startswith("anthropic"):
        return anthropic_response.read_answer(raw(name), wanted, Notes(wanted))
    return openai_response.read_answer(raw(name), wanted, Notes(wanted))


class TestTheFilesAreReal:
    @pytest.mark.parametrize("name", ["anthropic_tools.json", "anthropic_refusal.json"])
    def test_as_anthropics_messages(self, name: str) -> None:
        assert AnthropicMessage.model_validate_json(raw(name)).usage.input_tokens > 0

    @pytest.mark.parametrize("name", ["openai_tools.json", "openai_refusal.json"])
    def test_as_openais_completions(self, name: str) -> None:
        usage = ChatCompletion.model_validate_json(raw(name)).usage
        assert usage is not None
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens

    def test_as_anthropics_events(self) -> None:
        event: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
        kinds = [event.validate_json(payload).type for payload in payloads("anthropic_stream.sse") if b"ping" not in payload]
        assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")

    def test_as_openais_chunks(self) -> None:
        chunks = [ChatCompletionChunk.model_validate_json(each) for each in payloads("openai_stream.sse") if each != b"[DONE]"]
        assert chunks[-1].usage is not None


class TestAnthropicsAnswer:
    def test_has_its_tokens_in_disjoint_classes(self) -> None:
        usage = whole("anthropic_tools.json").usage

        assert usage == TokenUsage(
            uncached_input_tokens=21,
            cached_input_tokens=188086,
            cache_write_5m_tokens=456,
            cache_write_1h_tokens=1044,
            visible_output_tokens=273,
            reasoning_tokens=120,
        )
        assert usage.total_tokens == 21 + 1500 + 188086 + 393

    def test_has_text_tool_calls_and_the_reasoning_before_them(self) -> None:
        answer = whole("anthropic_tools.json")

        assert answer.text == "I look both up."
        assert answer.tool_calls == (
            ToolCall("toolu_01A09q90qw90lq917835lq9", "weather", '{"city": "Basel", "days": 1.50}'),
            ToolCall("toolu_01A09q90qw90lq917835lqB", "weather", '{"city": "Zürich"}'),
        )
        assert answer.reasoning == {
            "format": "anthropic",
            "model": "some-model",
            "blocks": [
                [
                    0,
                    {
                        "type": "thinking",
                        "thinking": "Two places are asked for, so two calls.",
                        "signature": "EqQBCgIYAhIM1gbcDa9GJwZA2b3h",
                    },
                ]
            ],
        }
        assert answer.finish_reason is FinishReason.TOOL_CALLS

    def test_of_a_refusal_is_filtered(self) -> None:
        answer = whole("anthropic_refusal.json")

        assert (answer.text, answer.finish_reason, answer.usage.total_tokens) == (None, FinishReason.CONTENT_FILTER, 62)

    def test_streamed_is_the_same_in_pieces(self) -> None:
        parts, answer = read(AnthropicStream(CALL, Notes(CALL), None), "anthropic_stream.sse")

        assert parts == [
            TextDelta("I look "),
            TextDelta("it up."),
            ToolCallDelta("toolu_01T1", "", "weather"),
            ToolCallDelta("toolu_01T1", '{"city": "Ba'),
            ToolCallDelta("toolu_01T1", 'sel"}'),
        ]
        assert answer.tool_calls == (ToolCall("toolu_01T1", "weather", '{"city": "Basel"}'),)
        assert answer.text == "I look it up."
        assert isinstance(answer.reasoning, dict)
        assert answer.reasoning["blocks"] == [
            [0, {"type": "thinking", "thinking": "A city, then its weather.", "signature": "EqQBCgIYAhIM1gbc"}]
        ]

    def test_streamed_counts_cache_writes_from_the_start_and_output_from_the_end(self) -> None:
        _, answer = read(AnthropicStream(CALL, Notes(CALL), None), "anthropic_stream.sse")

        assert answer.usage == TokenUsage(
            uncached_input_tokens=8,
            cached_input_tokens=1000,
            cache_write_5m_tokens=300,
            visible_output_tokens=49,
            reasoning_tokens=40,
        )


class TestOpenAIsAnswer:
    def test_has_its_tokens_in_disjoint_classes(self) -> None:
        usage = whole("openai_tools.json").usage

        assert usage == TokenUsage(
            uncached_input_tokens=470,
            cached_input_tokens=1024,
            cache_write_5m_tokens=512,
            visible_output_tokens=44,
            reasoning_tokens=256,
        )
        assert usage.total_tokens == 2306

    def test_has_its_tool_calls_as_the_model_wrote_them(self) -> None:
        answer = whole("openai_tools.json")

        assert answer.tool_calls == (
            ToolCall("call_abc", "weather", '{"city": "Basel", "days": 1.50}'),
            ToolCall("call_def", "weather", '{"city": "Zürich"}'),
        )
        assert (answer.text, answer.finish_reason, answer.model) == (None, FinishReason.TOOL_CALLS, "gpt-6-sol-2026-10-01")

    def test_of_a_refusal_is_its_words(self) -> None:
        answer = whole("openai_refusal.json")

        assert (answer.text, answer.finish_reason) == ("I cannot help with that.", FinishReason.CONTENT_FILTER)

    def test_streamed_keeps_calls_apart_that_come_mixed(self) -> None:
        parts, answer = read(OpenAIStream(CALL, Notes(CALL), None), "openai_stream.sse")

        assert parts[0] == TextDelta("I look it up.")
        assert parts[1:] == [
            ToolCallDelta("call_1", "", "weather"),
            ToolCallDelta("call_2", "", "weather"),
            ToolCallDelta("call_2", '{"city"'),
            ToolCallDelta("call_1", '{"city": "Basel"}'),
            ToolCallDelta("call_2", ': "Bern"}'),
        ]
        assert answer.tool_calls == (
            ToolCall("call_1", "weather", '{"city": "Basel"}'),
            ToolCall("call_2", "weather", '{"city": "Bern"}'),
        )
        assert answer.usage == TokenUsage(
            uncached_input_tokens=48, cached_input_tokens=1152, visible_output_tokens=43, reasoning_tokens=32
        )


class TestACompatibleServersAnswer:
    def test_is_complete_with_its_finish_reason(self) -> None:
        _, answer = read(OpenAIStream(CALL, Notes(CALL), None), "compatible_stream.sse")

        assert [(made.name, made.arguments) for made in answer.tool_calls] == [
            ("weather", '{"city":"Basel"}'),
            ("weather", '{"city":"Bern"}'),
        ]
        assert len({made.id for made in answer.tool_calls}) == 2
        assert answer.finish_reason is FinishReason.TOOL_CALLS

    def test_has_an_estimate_for_its_usage(self) -> None:
        _, answer = read(OpenAIStream(CALL, Notes(CALL), None), "compatible_stream.sse")

        assert not answer.usage.confirmed
        assert answer.usage.input_tokens > 0
        assert answer.usage.output_tokens > 0

    def test_keeps_what_the_model_thought(self) -> None:
        _, answer = read(OpenAIStream(CALL, Notes(CALL), None), "compatible_stream.sse")

        assert answer.reasoning == {"format": "openai-compatible", "reasoning_content": "The city is known."}

    def test_that_says_it_was_broken_off_is_no_answer(self) -> None:
        body = b'{"choices":[{"message":{"content":"half"},"finish_reason":"abort"}]}'

        with pytest.raises(ProviderError) as caught:
            openai_response.read_answer(body, CALL, Notes(CALL))

        assert caught.value.kind is FailureKind.TRUNCATED
        assert caught.value.usage is not None
