"""Answers as other servers send them: what can be read is read, and an error is charged nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from app.domain.errors import FailureKind, ProviderError
from app.llm.messages import FinishReason, TextDelta, ToolCallDelta
from app.llm.providers.answers import WholeAnswer
from app.llm.providers.anthropic import response as anthropic_response
from app.llm.providers.anthropic.stream import AnthropicStream
from app.llm.providers.openai import response as openai_response
from app.llm.providers.openai.stream import OpenAIStream
from app.llm.providers.unsupported import Notes
from app.llm.providers.wire_text import Malformed
from tests.app.llm.calls import call
from tests.integration.payload_mutations import ANTHROPIC_EVENTS, OPENAI_EVENTS, OPENAI_WHOLE, TEXT, changed, encode

CALL = call("some-model", max_output_tokens=4096)
ARGUMENTS = '{"city":"Basel"}'
USAGE = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}


def openai(body: object) -> WholeAnswer:
    return openai_response.read_answer(encode(body), CALL, Notes(CALL))


def answered(message: object, finish: object = "stop", **fields: Any) -> WholeAnswer:
    return openai({"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": USAGE, **fields})


def openai_failure(body: object) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        openai(body)
    return caught.value


def openai_stream(events: Sequence[object]) -> tuple[WholeAnswer, str]:
    reader = OpenAIStream(CALL, Notes(CALL), None)
    parts = [part for event in events for part in reader.read(encode(event))]
    assert reader.complete
    return reader.answer(), "".join(part.text for part in parts if isinstance(part, TextDelta))


def anthropic_stream(events: Sequence[object]) -> tuple[WholeAnswer, str]:
    reader = AnthropicStream(CALL, Notes(CALL), None)
    parts = [part for event in events for part in reader.read(encode(event))]
    assert reader.complete
    return reader.answer(), "".join(part.text for part in parts if isinstance(part, TextDelta))


class TestToolCallsOfOpenAIsProtocol:
    @pytest.mark.parametrize(
        "message",
        [
            {"content": None, "function_call": {"name": "weather", "arguments": ARGUMENTS}},
            {"content": None, "tool_calls": [{"id": "1", "name": "weather", "arguments": ARGUMENTS}]},
            {"content": None, "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Basel"}}}]},
            {"content": None, "tool_calls": {"id": "1", "function": {"name": "weather", "arguments": ARGUMENTS}}},
            {"content": None, "tool_calls": [None, {"function": {"name": "weather", "arguments": ARGUMENTS}}]},
        ],
        ids=["old", "flat", "object", "alone", "null beside"],
    )
    def test_are_read_in_every_form(self, message: object) -> None:
        (made,) = answered(message, "tool_calls").tool_calls
        assert (made.name, made.arguments) == ("weather", ARGUMENTS)

    @pytest.mark.parametrize("nothing", ["", False, 0, {}, []])
    def test_may_be_nothing_of_any_type(self, nothing: object) -> None:
        assert answered({"content": TEXT, "tool_calls": nothing}).text == TEXT

    @pytest.mark.parametrize("empty", [None, {}, [], ""])
    def test_may_begin_with_empty_arguments_of_any_type(self, empty: object) -> None:
        def piece(arguments: object, **fields: object) -> object:
            return {"choices": [{"delta": {"tool_calls": [{"index": 0, **fields, "function": {"arguments": arguments}}]}}]}

        named = {"index": 0, "id": "1", "function": {"name": "weather", "arguments": empty}}
        first = {"choices": [{"delta": {"tool_calls": [named]}}]}
        end = {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}
        answer, _ = openai_stream([first, piece('{"city":'), piece('"Basel"}'), end])
        assert [made.arguments for made in answer.tool_calls] == [ARGUMENTS]

    def test_of_the_old_form_are_streamed(self) -> None:
        events = [
            {"choices": [{"delta": {"function_call": {"name": "weather", "arguments": '{"city":'}}}]},
            {"choices": [{"delta": {"function_call": {"arguments": '"Basel"}'}}}]},
            {"choices": [{"delta": {}, "finish_reason": "function_call"}]},
        ]
        answer, _ = openai_stream(events)
        assert [(made.name, made.arguments) for made in answer.tool_calls] == [("weather", ARGUMENTS)]
        assert answer.finish_reason is FinishReason.TOOL_CALLS


class TestFinishReasonsOfCompatibleServers:
    @pytest.mark.parametrize(
        ("word", "reason"),
        [
            ("eos", FinishReason.STOP),
            ("end_turn", FinishReason.STOP),
            ("STOP", FinishReason.STOP),
            ("model_length", FinishReason.LENGTH),
            ("MAX_TOKENS", FinishReason.LENGTH),
            ("SAFETY", FinishReason.CONTENT_FILTER),
            ("sensitive", FinishReason.CONTENT_FILTER),
            (None, FinishReason.STOP),
            (["stop"], FinishReason.STOP),
        ],
    )
    def test_are_read(self, word: object, reason: FinishReason) -> None:
        assert answered({"content": TEXT}, word).finish_reason is reason

    @pytest.mark.parametrize(
        ("word", "kind"),
        [
            ("insufficient_system_resource", FailureKind.OVERLOADED),
            ("network_error", FailureKind.SERVER_ERROR),
            ("error", FailureKind.SERVER_ERROR),
            ("abort", FailureKind.TRUNCATED),
        ],
    )
    def test_that_say_the_answer_broke_off_are_failures_at_the_providers_figures(self, word: str, kind: FailureKind) -> None:
        failure = openai_failure({"choices": [{"message": {"content": "Good"}, "finish_reason": word}], "usage": USAGE})
        assert (failure.kind, failure.final) == (kind, False)
        assert failure.usage is not None
        assert (failure.usage.input_tokens, failure.usage.output_tokens, failure.usage.confirmed) == (1000, 500, True)


class TestAnErrorWithStatus200:
    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            (
                {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}, "choices": None},
                FailureKind.KEY_REFUSED,
            ),
            ({"success": False, "errors": [{"message": "Rate limit exceeded"}], "result": None}, FailureKind.RATE_LIMITED),
            ({"detail": "Internal Server Error"}, FailureKind.SERVER_ERROR),
            ({"message": "Internal server error"}, FailureKind.SERVER_ERROR),
            ({"code": 503, "msg": "no", "data": None}, FailureKind.OVERLOADED),
            ({"error": {"message": "no", "code": "429"}}, FailureKind.RATE_LIMITED),
            ({"error": {"message": "Provider returned error", "metadata": {"raw": "is overloaded"}}}, FailureKind.OVERLOADED),
            ({"choices": [], "error": {"message": "no", "code": 502}}, FailureKind.SERVER_ERROR),
        ],
    )
    def test_is_typed_and_costs_nothing(self, body: object, kind: FailureKind) -> None:
        failure = openai_failure(body)
        assert (failure.kind, failure.usage, failure.final) == (kind, None, False)

    @pytest.mark.parametrize("body", [{"message": "no"}, {"error": "no"}, {"detail": "no"}, {"type": "error", "error": None}])
    def test_is_one_of_anthropics_protocol_too(self, body: object) -> None:
        with pytest.raises(ProviderError) as caught:
            anthropic_response.read_answer(encode(body), CALL, Notes(CALL))
        assert caught.value.usage is None

    def test_in_the_choice_says_what_it_is(self) -> None:
        choice = {"message": {"content": ""}, "finish_reason": "error", "error": {"code": 429, "message": "slow down"}}
        failure = openai_failure({"choices": [choice], "usage": USAGE})
        assert failure.kind is FailureKind.RATE_LIMITED
        assert failure.usage is not None

    @pytest.mark.parametrize("empty", [None, "", {}, [], False])
    def test_is_none_if_the_field_is_empty(self, empty: object) -> None:
        assert openai({**OPENAI_WHOLE, "error": empty}).text == TEXT
        answer, _ = openai_stream([{**event, "error": empty} for event in OPENAI_EVENTS])
        assert answer.text == TEXT

    def test_inside_a_stream_is_found_without_its_usual_field(self) -> None:
        for event in ({"code": 503, "message": "no"}, {"detail": "no"}, {"type": "error", "message": "no"}):
            with pytest.raises(ProviderError):
                openai_stream([OPENAI_EVENTS[0], event])


class TestUsageInOtherPlaces:
    @pytest.mark.parametrize(
        "fields",
        [
            {"prompt_eval_count": 1000, "eval_count": 500},
            {"tokens_evaluated": 1000, "tokens_predicted": 500},
            {"usage": {"inputTokens": 1000, "outputTokens": 500, "totalTokens": 1500}},
            {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 1000, "outputTokenCount": 500}},
            {"usage": [USAGE]},
            {"usage": {"tokens": {"input_tokens": 1000, "output_tokens": 500}}},
            {"choices": [{"message": {"content": TEXT, "usage": USAGE}, "finish_reason": "stop"}], "usage": None},
        ],
        ids=["ollama", "llama.cpp", "camel case", "bedrock", "a list", "cohere", "in the message"],
    )
    def test_is_found_and_confirmed(self, fields: dict[str, Any]) -> None:
        body = {"choices": [{"message": {"content": TEXT}, "finish_reason": "stop"}], **fields}
        usage = openai(body).usage
        assert (usage.input_tokens, usage.output_tokens, usage.confirmed) == (1000, 500, True)


class TestAChoice:
    @pytest.mark.parametrize("index", [1, 7, "0", None, 1.5, []])
    def test_of_another_index_is_the_answer_if_it_is_alone(self, index: object) -> None:
        answer, shown = openai_stream([changed(each, ("choices", 0, "index"), index) for each in OPENAI_EVENTS[:-1]])
        assert answer.text == shown == TEXT


class TestAnthropicsEvents:
    @pytest.mark.parametrize("odd", [None, "odd", 7, []])
    def test_are_known_by_their_fields_if_their_type_is_odd(self, odd: object) -> None:
        answer, shown = anthropic_stream(
            [*(changed(event, ("type",), odd) for event in ANTHROPIC_EVENTS[:-1]), ANTHROPIC_EVENTS[-1]]
        )
        assert answer.text == shown == TEXT
        assert (answer.usage.output_tokens, answer.usage.confirmed) == (500, True)

    @pytest.mark.parametrize("odd", [None, "odd", 7, []])
    def test_have_their_text_though_the_types_inside_are_odd(self, odd: object) -> None:
        events: list[Any] = list(ANTHROPIC_EVENTS)
        events[1] = changed(events[1], ("content_block", "type"), odd)
        events[3:6] = [changed(event, ("delta", "type"), odd) for event in events[3:6]]
        answer, shown = anthropic_stream(events)
        assert answer.text == shown == TEXT

    @pytest.mark.parametrize("odd", [None, 7, "0"])
    def test_keep_the_order_of_the_text_if_an_index_is_odd(self, odd: object) -> None:
        for number in range(1, 7):
            if "index" in ANTHROPIC_EVENTS[number]:
                events = [*ANTHROPIC_EVENTS]
                events[number] = changed(events[number], ("index",), odd)
                answer, shown = anthropic_stream(events)
                assert answer.text == shown == TEXT, number

    def test_leave_the_arguments_of_the_providers_own_tools_out(self) -> None:
        block = {"type": "server_tool_use", "id": "1", "name": "web_search", "input": {}}
        events = [
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"q":1}'}},
            {"type": "content_block_stop", "index": 0},
        ]
        reader = AnthropicStream(CALL, Notes(CALL), None)
        parts = [part for event in [ANTHROPIC_EVENTS[0], *events, *ANTHROPIC_EVENTS[1:]] for part in reader.read(encode(event))]
        assert not [part for part in parts if isinstance(part, ToolCallDelta)]
        assert reader.answer().text == TEXT

    def test_take_arguments_that_come_as_an_object(self) -> None:
        block = {"type": "tool_use", "id": "1", "name": "weather", "input": {}}
        delta = {"type": "input_json_delta", "partial_json": {"city": "Basel"}}
        answer, _ = anthropic_stream(
            [
                ANTHROPIC_EVENTS[0],
                {"type": "content_block_start", "index": 0, "content_block": block},
                {"type": "content_block_delta", "index": 0, "delta": delta},
                *ANTHROPIC_EVENTS[-2:],
            ]
        )
        assert [made.arguments for made in answer.tool_calls] == [ARGUMENTS]

    def test_with_arguments_for_no_tool_are_malformed(self) -> None:
        delta = {"type": "input_json_delta", "partial_json": "{}"}
        starts: tuple[object, ...] = ({}, None)
        for start in starts:
            begin = {"type": "content_block_start", "index": 0, "content_block": start}
            with pytest.raises(Malformed):
                anthropic_stream([ANTHROPIC_EVENTS[0], begin, {"type": "content_block_delta", "index": 0, "delta": delta}])
