from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llm.anthropic_response import read_usage as read_anthropic
from app.llm.messages import InlineImage, Message, Role, Text
from app.llm.openai_response import read_answer
from app.llm.openai_response import read_usage as read_openai
from app.llm.openai_stream import OpenAIStream
from app.llm.unsupported import Notes
from app.llm.usage_mapping import (
    AnthropicUsage,
    OpenAIUsage,
    anthropic_usage,
    broken_answer_usage,
    estimated_usage,
    merge_anthropic,
    openai_usage,
)
from app.usage import ServiceTier, TokenUsage
from tests.app.llm.calls import WEATHER, call, user

LARGEST = 2**31 - 1
honest = st.integers(0, 10**8)
wild = st.one_of(st.none(), st.integers(-(10**12), 10**12), st.floats(allow_nan=False, allow_infinity=False), st.just(0), honest)
CLASSES = (
    "uncached_input_tokens",
    "cached_input_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "visible_output_tokens",
    "reasoning_tokens",
)


def details(*names: str) -> st.SearchStrategy[dict[str, object] | None]:
    return st.none() | st.fixed_dictionaries({}, optional=dict.fromkeys(names, wild))


anthropic_blocks = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens"), wild),
        "cache_creation": details("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"),
        "output_tokens_details": details("thinking_tokens"),
    },
)
openai_blocks = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), wild),
        "prompt_tokens_details": details("cached_tokens", "cache_write_tokens"),
        "completion_tokens_details": details("reasoning_tokens"),
    },
)


def anthropic_of(block: dict[str, object]) -> TokenUsage:
    return anthropic_usage(msgspec.convert(block, AnthropicUsage))


def openai_of(block: dict[str, object]) -> TokenUsage:
    return openai_usage(msgspec.convert(block, OpenAIUsage))


def whole(value: object) -> int:
    return int(min(max(value, 0), LARGEST)) if isinstance(value, (int, float)) else 0


class TestAnthropic:
    @given(anthropic_blocks)
    def test_any_block_gives_classes_that_sum_to_the_providers_total(self, block: dict[str, object]) -> None:
        usage = anthropic_of(block)

        assert min(getattr(usage, name) for name in CLASSES) >= 0
        assert usage.output_tokens == whole(block.get("output_tokens"))
        assert usage.uncached_input_tokens == whole(block.get("input_tokens"))
        assert usage.cached_input_tokens == whole(block.get("cache_read_input_tokens"))
        if block.get("cache_creation_input_tokens") is not None:
            assert usage.cache_write_tokens == whole(block["cache_creation_input_tokens"])

    def test_a_breakdown_without_its_sum_is_the_sum(self) -> None:
        usage = anthropic_of({"cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 7}})

        assert (usage.cache_write_5m_tokens, usage.cache_write_1h_tokens) == (5, 7)

    def test_a_sum_without_its_breakdown_is_for_five_minutes(self) -> None:
        usage = anthropic_of({"cache_creation_input_tokens": 12})

        assert (usage.cache_write_5m_tokens, usage.cache_write_1h_tokens) == (12, 0)

    def test_a_breakdown_larger_than_its_sum_is_cut_to_it(self) -> None:
        usage = anthropic_of({"cache_creation_input_tokens": 10, "cache_creation": {"ephemeral_1h_input_tokens": 40}})

        assert (usage.cache_write_5m_tokens, usage.cache_write_1h_tokens) == (0, 10)


class TestOpenAI:
    @given(openai_blocks)
    def test_any_block_gives_classes_that_sum_to_the_providers_total(self, block: dict[str, object]) -> None:
        usage = openai_of(block)

        total = whole(block.get("total_tokens"))
        parts = whole(block.get("prompt_tokens")) + whole(block.get("completion_tokens"))
        assert min(getattr(usage, name) for name in CLASSES) >= 0
        assert usage.total_tokens == (total or parts)
        assert usage.input_tokens <= whole(block.get("prompt_tokens"))

    @given(prompt=honest, completion=honest, cached=honest, reasoning=honest)
    def test_an_honest_block_keeps_input_and_output(self, prompt: int, completion: int, cached: int, reasoning: int) -> None:
        usage = openai_of(
            {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
                "prompt_tokens_details": {"cached_tokens": cached},
                "completion_tokens_details": {"reasoning_tokens": reasoning},
            }
        )

        assert (usage.input_tokens, usage.output_tokens) == (prompt, completion)
        assert (usage.cached_input_tokens, usage.reasoning_tokens) == (min(cached, prompt), min(reasoning, completion))

    def test_reasoning_left_out_of_the_completion_is_found_in_the_total(self) -> None:
        usage = openai_of(
            {
                "prompt_tokens": 100,
                "completion_tokens": 20,
                "total_tokens": 150,
                "completion_tokens_details": {"reasoning_tokens": 30},
            }
        )

        assert (usage.visible_output_tokens, usage.reasoning_tokens, usage.total_tokens) == (20, 30, 150)

    def test_a_missing_total_is_the_sum(self) -> None:
        assert openai_of({"prompt_tokens": 7, "completion_tokens": 3}).total_tokens == 10


class TestFiguresThatCannotBeRead:
    def test_are_none_and_do_not_cost_the_answer(self) -> None:
        for raw in (b'{"prompt_tokens": "many"}', b'"nothing"', b"null", b"{}", b"[1]"):
            assert read_openai(raw) is None
        for raw in (b'{"input_tokens": "many"}', b'"nothing"', b"null", b"[1]"):
            assert read_anthropic(raw) is None


class TestAnEstimate:
    def test_says_that_it_is_one(self) -> None:
        usage = estimated_usage(call("m", user("x" * 400)), 80)

        assert usage == TokenUsage(uncached_input_tokens=104, visible_output_tokens=20, confirmed=False)

    def test_counts_tools_images_and_every_script(self) -> None:
        plain = estimated_usage(call("m", user("abcd")), 0).input_tokens

        assert estimated_usage(call("m", user("abcd"), tools=(WEATHER,)), 0).input_tokens > plain
        assert estimated_usage(call("m", user("碳排放量")), 0).input_tokens > plain
        image = Message(Role.USER, (Text("abcd"), InlineImage("aGVsbG8=", "image/png")))
        assert estimated_usage(call("m", image), 0).input_tokens == plain + 1000


class TestTheTierThatServedACall:
    @pytest.mark.parametrize(
        ("block", "tier"),
        [
            ({}, ServiceTier.STANDARD),
            ({"service_tier": "standard", "speed": "standard"}, ServiceTier.STANDARD),
            ({"service_tier": "batch"}, ServiceTier.BATCH),
            ({"service_tier": "priority", "speed": "standard"}, ServiceTier.PRIORITY),
            ({"service_tier": "standard", "speed": "fast"}, ServiceTier.FAST),
            ({"service_tier": "new"}, ServiceTier.STANDARD),
            ({"service_tier": ["batch"], "speed": 7}, ServiceTier.STANDARD),
        ],
    )
    def test_is_in_anthropics_usage(self, block: dict[str, object], tier: ServiceTier) -> None:
        usage = read_anthropic(msgspec.json.encode({"input_tokens": 7, "output_tokens": 2, **block}))
        assert usage is not None
        assert anthropic_usage(usage) == TokenUsage(uncached_input_tokens=7, visible_output_tokens=2, service_tier=tier)

    def test_stays_known_to_the_end_of_anthropics_stream(self) -> None:
        start, end = AnthropicUsage(input_tokens=7, service_tier="batch"), AnthropicUsage(output_tokens=2)
        assert anthropic_usage(merge_anthropic(start, end)).service_tier is ServiceTier.BATCH

    @pytest.mark.parametrize(
        ("named", "tier"),
        [
            (None, ServiceTier.STANDARD),
            ("auto", ServiceTier.STANDARD),
            ("default", ServiceTier.STANDARD),
            ("scale", ServiceTier.STANDARD),
            ("flex", ServiceTier.FLEX),
            ("priority", ServiceTier.PRIORITY),
            ("fast", ServiceTier.FAST),
            ({"a": 1}, ServiceTier.STANDARD),
        ],
    )
    def test_is_beside_openais_usage_whole_and_streamed(self, named: object, tier: ServiceTier) -> None:
        asked = call("gpt-5")
        usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
        body = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}], "usage": usage, "service_tier": named}
        assert read_answer(msgspec.json.encode(body), asked, Notes(asked)).usage.service_tier is tier
        stream = OpenAIStream(asked, Notes(asked), None)
        for chunk in (
            {"service_tier": named, "choices": [{"delta": {"content": "Hello"}}]},
            {"service_tier": named, "choices": [{"delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": usage},
        ):
            stream.read(msgspec.json.encode(chunk))
        stream.read(b"[DONE]")
        assert stream.answer().usage.service_tier is tier

    def test_of_several_attempts_is_known_where_they_agree(self) -> None:
        batch, flex = TokenUsage(service_tier=ServiceTier.BATCH), TokenUsage(service_tier=ServiceTier.FLEX)
        assert (batch + batch).service_tier is ServiceTier.BATCH
        assert (batch + flex).service_tier is ServiceTier.STANDARD


class TestABodyThatCannotBeRead:
    ESTIMATE = TokenUsage(uncached_input_tokens=3, visible_output_tokens=7, confirmed=False)

    @pytest.mark.parametrize("raw", [b'{"choices": [{"mess', b' {"id": "x"}', b'{"choices": []}'])
    def test_was_billed_where_it_is_an_answer(self, raw: bytes) -> None:
        assert broken_answer_usage(raw, self.ESTIMATE) == self.ESTIMATE

    @pytest.mark.parametrize("raw", [b"", b"<html>Sign in</html>", b'{"error": {"message": "no"}}', b'"text"'])
    def test_was_not_where_it_is_something_else(self, raw: bytes) -> None:
        assert broken_answer_usage(raw, self.ESTIMATE) is None
