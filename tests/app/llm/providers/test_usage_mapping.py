from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.usage import ServiceTier, TokenUsage
from app.llm.messages import InlineImage, Message, ModelCall, Role, Text
from app.llm.providers.openai.response import read_answer, read_billed
from app.llm.providers.openai.stream import OpenAIStream
from app.llm.providers.unsupported import Notes
from app.llm.providers.usage_figures import (
    Figures,
    anthropic_figures,
    anthropic_figures_of,
    count,
    figures_in_pieces,
    may_have_figures,
    merged,
    openai_figures,
    openai_figures_of,
)
from app.llm.providers.usage_mapping import (
    MAX_TOKENS_PER_SECOND,
    UNLIKELY_FIGURE,
    anthropic_usage,
    estimated_usage,
    openai_usage,
    received_usage,
    salvaged_usage,
)
from tests.app.llm.calls import WEATHER, call, user

BLOCK = {"prompt_tokens": 7, "completion_tokens": 3}
PLACES: list[dict[str, object]] = [
    {"usage": BLOCK},
    {"usage": [BLOCK]},
    {"usage": [{}, BLOCK]},
    {"usage": [[None, BLOCK]]},
    {"usage": {"prompt_tokens": 0}, "choices": [{"usage": BLOCK}]},
    {"usage": {"total_tokens": 10}, "x_usage": BLOCK},
    {"choices": [{"message": {"content": "x", "usage": BLOCK}}]},
    {"choices": [{"delta": {"usage": BLOCK}}]},
    {"choices": [], "response": {"usage": BLOCK}},
    {"error": {"message": "x", "usage": BLOCK}},
    {"x_groq": {"id": "r", "usage": BLOCK}},
    {"metadata": {"usage": BLOCK}},
    {"meta": {"billed_units": {"input_tokens": 7, "output_tokens": 3}}},
    {"usage": {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": 7, "output_tokens": 3}}},
    {"usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 3}},
    {"usage_metadata": {"promptTokenCount": 7, "candidatesTokenCount": 3}},
    {"usage": None, "timings": {"prompt_n": 7, "predicted_n": 3}},
    {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 7, "outputTokenCount": 3}},
    {"type": "message_start", "message": {"usage": {"input_tokens": 7, "output_tokens": 3}}},
    {"prompt_eval_count": 7, "eval_count": 3},
    {"tokens_evaluated": "7", "tokens_predicted": "3"},
]
"""Where servers put their usage, in a whole answer or in an event."""
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


ASKED = call("m", max_output_tokens=10**8, input_tokens=10**6)


def anthropic_of(block: dict[str, object], output_bytes: int = 0) -> TokenUsage:
    return anthropic_usage(anthropic_figures(block), ASKED, output_bytes)


def openai_of(block: dict[str, object], output_bytes: int = 0, asked: ModelCall = ASKED) -> TokenUsage:
    return openai_usage(openai_figures(block), asked, output_bytes)


class TestAnthropic:
    @given(anthropic_blocks)
    def test_any_block_gives_classes_that_are_disjoint(self, block: dict[str, object]) -> None:
        usage = anthropic_of(block, output_bytes=400)

        assert min(getattr(usage, name) for name in CLASSES) >= 0
        assert usage.input_tokens > 0
        assert usage.output_tokens > 0
        made = block.get("output_tokens")
        if isinstance(made, int) and 0 < made <= 10**8:
            assert usage.output_tokens == made

    def test_a_breakdown_without_its_sum_is_the_sum(self) -> None:
        usage = anthropic_of({"cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 7}})

        assert (usage.cache_write_5m_tokens, usage.cache_write_1h_tokens) == (5, 7)

    def test_a_sum_without_its_breakdown_is_for_five_minutes(self) -> None:
        usage = anthropic_of({"cache_creation_input_tokens": 12})

        assert (usage.cache_write_5m_tokens, usage.cache_write_1h_tokens) == (12, 0)

    def test_a_breakdown_larger_than_its_sum_is_cut_to_it(self) -> None:
        usage = anthropic_of({"cache_creation_input_tokens": 10, "cache_creation": {"ephemeral_1h_input_tokens": 40}})

        assert (usage.cache_write_5m_tokens, usage.cache_write_1h_tokens) == (0, 10)

    @pytest.mark.parametrize("odd", [[], None, "x", 7, {"ephemeral_1h_input_tokens": []}])
    def test_an_odd_detail_costs_itself_alone(self, odd: object) -> None:
        usage = anthropic_of({"input_tokens": 7, "output_tokens": 5, "cache_creation": odd, "output_tokens_details": odd})

        assert usage == TokenUsage(uncached_input_tokens=7, visible_output_tokens=5)


class TestOpenAI:
    @given(openai_blocks)
    def test_any_block_gives_classes_that_are_disjoint(self, block: dict[str, object]) -> None:
        usage = openai_of(block, output_bytes=400)

        assert min(getattr(usage, name) for name in CLASSES) >= 0
        assert usage.input_tokens > 0
        assert usage.output_tokens > 0

    @given(prompt=st.integers(1, 10**8), completion=honest, cached=honest, reasoning=honest)
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

        assert (usage.input_tokens, usage.output_tokens, usage.confirmed) == (prompt, completion, True)
        assert (usage.cached_input_tokens, usage.reasoning_tokens) == (min(cached, prompt), min(reasoning, completion))

    @pytest.mark.parametrize(
        ("block", "given", "made"),
        [
            # reasoning beside the output, with a total and without
            ({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 150, "reasoning_tokens": 30}, 100, 50),
            ({"prompt_tokens": 100, "completion_tokens": 20, "completion_tokens_details": {"reasoning_tokens": 30}}, 100, 50),
            # thoughts that only the total counts
            ({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 150}, 100, 50),
            # cached tokens beside the prompt, with a total and without
            ({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 920, "cached_tokens": 800}, 900, 20),
            ({"prompt_tokens": 100, "completion_tokens": 20, "prompt_cache_hit_tokens": 800}, 900, 20),
            # both
            (
                {
                    "prompt_tokens": 100,
                    "completion_tokens": 20,
                    "total_tokens": 960,
                    "cached_tokens": 800,
                    "reasoning_tokens": 40,
                },
                900,
                60,
            ),
            # a total that leaves something out
            ({"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 700}, 1000, 500),
            ({"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1}, 1000, 500),
            # one part is missing
            ({"prompt_tokens": 1000, "total_tokens": 1500}, 1000, 500),
            ({"completion_tokens": 500, "total_tokens": 1500}, 1000, 500),
            # no total
            ({"prompt_tokens": 7, "completion_tokens": 3}, 7, 3),
            # other names
            ({"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}, 7, 3),
            ({"promptTokenCount": 7, "candidatesTokenCount": 3, "thoughtsTokenCount": 4, "totalTokenCount": 14}, 7, 7),
            # as text
            ({"prompt_tokens": "7", "completion_tokens": "3.0", "total_tokens": "10"}, 7, 3),
        ],
    )
    def test_totals_and_parts_are_reconciled(self, block: dict[str, object], given: int, made: int) -> None:
        usage = openai_of(block, output_bytes=40)

        assert (usage.input_tokens, usage.output_tokens, usage.confirmed) == (given, made, True)

    @pytest.mark.parametrize(
        ("block", "given", "made", "confirmed"),
        [
            ({"prompt_tokens": 1000, "completion_tokens": 10**9, "total_tokens": 1500}, 1000, 500, True),
            ({"prompt_tokens": 10**9, "completion_tokens": 500, "total_tokens": 1500}, 1000, 500, True),
            ({"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 10**9}, 1000, 500, True),
            ({"prompt_tokens": 1000, "completion_tokens": 10**9}, 1000, 10, False),
            ({"prompt_tokens": 1000, "completion_tokens": 0, "total_tokens": 1000}, 1000, 10, False),
            ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, 900, 10, False),
            ({"prompt_tokens": 1000, "completion_tokens": None, "total_tokens": None}, 1000, 10, False),
            ({"prompt_tokens": -1, "completion_tokens": 500}, 900, 500, False),
            ({}, 900, 10, False),
        ],
    )
    def test_what_this_call_cannot_have_is_no_figure(
        self, block: dict[str, object], given: int, made: int, *, confirmed: bool
    ) -> None:
        usage = openai_of(block, 40, call("m", max_output_tokens=1000, input_tokens=900))

        assert (usage.input_tokens, usage.output_tokens, usage.confirmed) == (given, made, confirmed)

    @pytest.mark.parametrize("odd", [[], None, "x", 7, {"cached_tokens": []}, {"cached_tokens": True}])
    def test_an_odd_detail_costs_itself_alone(self, odd: object) -> None:
        block = {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": odd, "completion_tokens_details": odd}

        assert openai_of(block) == TokenUsage(uncached_input_tokens=7, visible_output_tokens=5)

    @pytest.mark.parametrize("body", PLACES, ids=msgspec.json.encode)
    def test_is_read_wherever_a_server_puts_it(self, body: dict[str, object]) -> None:
        figures = openai_figures_of(body)

        assert (figures.input, figures.output) == (7, 3)
        assert may_have_figures(msgspec.json.encode(body))

    @pytest.mark.parametrize("body", PLACES, ids=msgspec.json.encode)
    def test_is_read_there_in_anthropics_protocol_too(self, body: dict[str, object]) -> None:
        figures = anthropic_figures_of(body)

        assert (figures.input, figures.output) == (7, 3)

    @pytest.mark.parametrize(
        "body",
        [
            {"usage": None},
            {"usage": {}, "choices": [{"delta": {"content": '"prompt_tokens": 7'}}]},
            {"limits": {"prompt_tokens": 7, "completion_tokens": 3}},
            {"choices": [{"message": {"content": [{"usage": {"prompt_tokens": 7}}]}}]},
            {"choices": [{"message": {"tool_calls": [{"function": {"arguments": {"usage": {"prompt_tokens": 7}}}}]}}]},
            {"choices": [{}, {"usage": {"prompt_tokens": 7, "completion_tokens": 3}}]},
        ],
    )
    def test_is_not_read_out_of_words_limits_or_other_choices(self, body: dict[str, object]) -> None:
        assert not openai_figures_of(body)

    def test_of_a_chunk_without_figures_is_not_looked_for(self) -> None:
        chunk = {"choices": [{"delta": {"content": '"usage": {"prompt_tokens": 7}'}}], "usage": None}

        assert not may_have_figures(msgspec.json.encode(chunk))

    @pytest.mark.parametrize(
        ("block", "output_bytes", "given", "made"),
        [
            ({"total_tokens": 1500}, 300 * 4, 1200, 300),
            ({"total_tokens": "1500"}, 300 * 4, 1200, 300),
            ({"prompt_tokens": None, "completion_tokens": [], "total_tokens": 1500}, 300 * 4, 1200, 300),
            ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 1500}, 300 * 4, 1200, 300),
            ({"totalTokenCount": 1500}, 0, 1500, 0),
        ],
    )
    def test_with_a_total_alone_is_divided_as_the_estimates_are(
        self, block: dict[str, object], output_bytes: int, given: int, made: int
    ) -> None:
        asked = call("m", max_output_tokens=4096, input_tokens=1200)
        for usage in (
            openai_of(block, output_bytes, asked),
            anthropic_usage(anthropic_figures(block), asked, output_bytes),
        ):
            assert (usage.input_tokens, usage.output_tokens, usage.confirmed) == (given, made, False)

    @given(total=st.integers(2, 5000), output_bytes=st.integers(0, 8000))
    def test_with_a_total_alone_is_never_more_or_less_than_it(self, total: int, output_bytes: int) -> None:
        asked = call("m", max_output_tokens=4096, input_tokens=900)

        assert openai_of({"total_tokens": total}, output_bytes, asked).total_tokens == total

    def test_with_a_total_that_this_call_cannot_have_is_an_estimate(self) -> None:
        asked = call("m", max_output_tokens=1000, input_tokens=900)
        notes = Notes(asked)
        usage = openai_usage(openai_figures({"total_tokens": 10**9}), asked, 40, notes=notes)

        assert (usage.input_tokens, usage.output_tokens, usage.confirmed) == (900, 10, False)
        assert notes.texts == [UNLIKELY_FIGURE]


class TestFiguresThatComeTwice:
    def test_are_joined_field_by_field_and_zeros_replace_nothing(self) -> None:
        first = anthropic_figures({"input_tokens": 1000, "cache_read_input_tokens": 5, "output_tokens": 1})
        later = anthropic_figures({"input_tokens": 0, "output_tokens": 500})

        assert merged(first, later) == anthropic_figures(
            {"input_tokens": 1000, "cache_read_input_tokens": 5, "output_tokens": 500}
        )

    def test_are_read_out_of_a_body_that_is_cut(self) -> None:
        raw = b'{"usage": {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 1}}, "choices": [{"mess'

        assert figures_in_pieces(raw) == {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 1}}
        assert figures_in_pieces(b'{"usage": {"prompt_to') is None

    @pytest.mark.parametrize(
        "raw",
        [
            b'{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "tot',
            b'{"choices": [], "usage": {"prompt_tokens": "7", "completion_tokens": "3", "x": {"y',
            b'{"usageMetadata": {"prompt_tokens": 7, "completion_tokens": 3}, "choices": [{"mess',
            b'{"prompt_tokens": 7, "completion_tokens": 3, "message": {"conte',
        ],
    )
    def test_are_read_one_by_one_out_of_a_block_that_is_cut_itself(self, raw: bytes) -> None:
        figures = openai_figures(figures_in_pieces(raw))

        assert (figures.input, figures.output) == (7, 3)

    def test_are_not_read_out_of_the_words_of_an_answer_that_is_cut(self) -> None:
        assert figures_in_pieces(msgspec.json.encode({"content": '"usage": {"prompt_tokens": 7}'})[:-3]) is None


class TestFiguresThatCannotBeRead:
    @pytest.mark.parametrize("block", [{"prompt_tokens": "many"}, "nothing", None, {}, [1], 7, {"prompt_tokens": True}])
    def test_are_none(self, block: object) -> None:
        assert not openai_figures(block)
        assert not anthropic_figures(block)

    @pytest.mark.parametrize(
        ("value", "tokens"), [(7, 7), (7.9, 7), ("7", 7), (-1, None), (float("nan"), None), ("inf", None), ([], None)]
    )
    def test_one_by_one(self, value: object, tokens: int | None) -> None:
        assert count(value) == tokens


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
        usage = anthropic_of({"input_tokens": 7, "output_tokens": 2, **block})
        assert usage == TokenUsage(uncached_input_tokens=7, visible_output_tokens=2, service_tier=tier)

    def test_stays_known_to_the_end_of_anthropics_stream(self) -> None:
        start, end = Figures(input=7, service_tier="batch"), Figures(output=2)
        assert anthropic_usage(merged(start, end), ASKED, 0).service_tier is ServiceTier.BATCH

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


class TestABodyThatCannotBeUsed:
    @pytest.mark.parametrize("raw", [b'{"choices": [{"mess', b' {"id": "x"}', b'{"choices": []}', b'data: {"cho'])
    def test_costs_what_came_where_it_is_an_answer(self, raw: bytes) -> None:
        usage = salvaged_usage(raw, ASKED, 10, read_billed)

        assert usage is not None
        assert (usage.output_tokens, usage.confirmed) == (-(-len(raw.strip()) // 4), False)

    @pytest.mark.parametrize("raw", [b"", b"<html>Sign in</html>", b'{"error": {"message": "no"}}', b'"text"'])
    def test_costs_nothing_where_it_is_something_else(self, raw: bytes) -> None:
        assert salvaged_usage(raw, ASKED, 10, read_billed) is None

    @pytest.mark.parametrize(
        "raw", [b'{"usage": %s}', b'{"usage": %s, "choices": [{"mess', b'data: {"usage": %s}\n\ndata: {"cho']
    )
    def test_keeps_the_figures_that_it_has(self, raw: bytes) -> None:
        figures = b'{"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}'

        assert salvaged_usage(raw % figures, ASKED, 10, read_billed) == TokenUsage(
            uncached_input_tokens=7, visible_output_tokens=3
        )

    def test_is_no_more_than_can_be_made_in_its_time(self) -> None:
        usage = received_usage(ASKED, b"x" * 1_000_000, seconds=2)

        assert usage.output_tokens == 2 * MAX_TOKENS_PER_SECOND
