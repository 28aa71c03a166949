from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from pydantic import TypeAdapter

from app.domain.errors import Refused
from app.domain.problems import InvalidInput
from app.llm.messages import (
    ImageUrl,
    InlineImage,
    Json,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    ModelCall,
    NamedTool,
    ReasoningEffort,
    Role,
    Text,
    ToolCall,
    ToolChoiceMode,
    ToolResult,
    UnsupportedPolicy,
)
from app.llm.providers.anthropic.request import JSON_TOOL, WRAPPED_ARGUMENTS, encode_request, sampling
from app.llm.providers.unsupported import OTHER_REASONING, Notes
from tests.app.llm.calls import WEATHER, call, user

MODEL = "claude-sonnet-5-5"
PARAMS: TypeAdapter[Any] = TypeAdapter(MessageCreateParamsNonStreaming)
SCHEMA: dict[str, Json] = {"type": "object", "additionalProperties": {"type": "integer"}}
OLDER = "claude-sonnet-4-0"
FIELDS: dict[str, Any] = {"temperature": 0.1, "top_p": 0.9, "seed": 4}
THINKING: dict[str, Json] = {"type": "thinking", "thinking": "hm", "signature": "abc"}


def encoded(
    wanted: ModelCall, native: dict[str, Json] | None = None, untaken: frozenset[str] = frozenset()
) -> tuple[dict[str, Any], list[str]]:
    """The body, which the SDK's own type accepts, and the notes."""
    notes = Notes(wanted)
    body: dict[str, Any] = msgspec.json.decode(encode_request(wanted, notes, native, untaken, stream=False))
    PARAMS.validate_python(body)
    return body, notes.texts


def encoded_as_sampled(wanted: ModelCall) -> tuple[dict[str, Any], list[str]]:
    """As `encoded`; the SDK's type has no sampling."""
    notes = Notes(wanted)
    return msgspec.json.decode(encode_request(wanted, notes, None, frozenset(), stream=False)), notes.texts


def system(text: str, *, cache_up_to: bool = False) -> Message:
    return Message(Role.SYSTEM, (Text(text),), cache_up_to=cache_up_to)


class TestMessages:
    def test_leading_system_messages_go_apart_and_later_ones_stay_in_place(self) -> None:
        body, _ = encoded(call(MODEL, system("one"), system("two"), user("hi"), system("three"), user("again")))

        assert body["system"] == [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
        assert [(each["role"], each["content"]) for each in body["messages"]] == [
            ("user", "hi"),
            ("system", "three"),
            ("user", "again"),
        ]

    def test_results_of_one_turn_go_back_together(self) -> None:
        calls = (ToolCall("a", "weather", '{"city":"Basel"}'), ToolCall("b", "weather", ""))
        results = (
            Message(Role.TOOL, tool_result=ToolResult("a", "cold")),
            Message(Role.TOOL, tool_result=ToolResult("b", "no such city", is_error=True)),
        )

        body, _ = encoded(call(MODEL, user("hi"), Message(Role.ASSISTANT, (Text(""),), calls), *results, tools=(WEATHER,)))

        assert body["messages"][1]["content"] == [
            {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Basel"}},
            {"type": "tool_use", "id": "b", "name": "weather", "input": {}},
        ]
        assert body["messages"][2] == {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "cold"},
                {"type": "tool_result", "tool_use_id": "b", "content": "no such city", "is_error": True},
            ],
        }

    def test_images_go_by_address_and_inline(self) -> None:
        parts = (ImageUrl("https://images.invalid/a.png"), InlineImage("aGVsbG8=", "image/png"))

        body, _ = encoded(call(MODEL, Message(Role.USER, parts)))

        assert [block["source"] for block in body["messages"][0]["content"]] == [
            {"type": "url", "url": "https://images.invalid/a.png"},
            {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="},
        ]

    @pytest.mark.parametrize("arguments", ["{", "[]", '"text"', "7"])
    def test_arguments_that_are_no_object_go_within_one_and_are_noted(self, arguments: str) -> None:
        turn = Message(Role.ASSISTANT, tool_calls=(ToolCall("a", "weather", arguments),))

        body, notes = encoded(call(MODEL, user("hi"), turn))

        assert body["messages"][1]["content"][0]["input"] == {"INVALID_JSON": arguments}
        assert notes == [WRAPPED_ARGUMENTS]

    def test_half_a_surrogate_pair_is_refused(self) -> None:
        with pytest.raises(Refused):
            encoded(call(MODEL, user("\ud83d")))


class TestCacheMarks:
    def test_are_put_on_the_last_block_of_their_message(self) -> None:
        body, _ = encoded(call(MODEL, system("rules", cache_up_to=True), user("hi")))

        assert body["system"] == [{"type": "text", "text": "rules", "cache_control": {"type": "ephemeral"}}]
        assert body["messages"][0]["content"] == "hi"

    def test_beyond_four_are_left_out_from_the_front_with_a_note(self) -> None:
        marked = [Message(Role.USER, (Text(str(number)),), cache_up_to=True) for number in range(6)]

        body, notes = encoded(call(MODEL, *marked))

        assert ["cache_control" in str(each["content"]) for each in body["messages"]] == [False] * 2 + [True] * 4
        assert len(notes) == 1


class TestReasoning:
    def turn(self, **changed: Json) -> Message:
        reasoning: dict[str, Json] = {"format": "anthropic", "model": MODEL, "blocks": [[0, THINKING]], **changed}
        return Message(Role.ASSISTANT, (Text("so"),), (ToolCall("a", "weather", "{}"),), reasoning=reasoning)

    def test_goes_back_to_its_place(self) -> None:
        body, notes = encoded(call(MODEL, user("hi"), self.turn(blocks=[[0, THINKING], [2, THINKING]]), tools=(WEATHER,)))

        assert [block["type"] for block in body["messages"][1]["content"]] == ["thinking", "text", "thinking", "tool_use"]
        assert notes == []

    @pytest.mark.parametrize("changed", [{"model": "claude-opus-5-5"}, {"format": "openai-compatible"}])
    def test_of_another_model_stays_away_with_a_note(self, changed: dict[str, Json]) -> None:
        body, notes = encoded(call(MODEL, user("hi"), self.turn(**changed), tools=(WEATHER,)))

        assert [block["type"] for block in body["messages"][1]["content"]] == ["text", "tool_use"]
        assert notes == [OTHER_REASONING]

    def test_that_was_changed_is_refused(self) -> None:
        with pytest.raises(Refused):
            encoded(call(MODEL, user("hi"), self.turn(blocks="mine"), tools=(WEATHER,)))

    @pytest.mark.parametrize(
        ("model", "effort", "thinking", "output"),
        [
            (MODEL, ReasoningEffort.NONE, {"type": "disabled"}, None),
            (MODEL, ReasoningEffort.LOW, {"type": "adaptive"}, {"effort": "low"}),
            (MODEL, ReasoningEffort.HIGH, {"type": "adaptive"}, {"effort": "high"}),
            ("claude-haiku-4-5-20251001", ReasoningEffort.MEDIUM, {"type": "enabled", "budget_tokens": 4096}, None),
            ("claude-opus-4-5", ReasoningEffort.HIGH, {"type": "enabled", "budget_tokens": 7999}, None),
        ],
    )
    def test_is_asked_for_as_the_model_takes_it(
        self, model: str, effort: ReasoningEffort, thinking: dict[str, Json], output: dict[str, Json] | None
    ) -> None:
        body, _ = encoded(call(model, reasoning_effort=effort, max_output_tokens=8000))

        assert (body["thinking"], body.get("output_config")) == (thinking, output)

    def test_without_room_is_left_out_with_a_note(self) -> None:
        body, notes = encoded(call("claude-haiku-4-5", reasoning_effort=ReasoningEffort.LOW, max_output_tokens=500))

        assert "thinking" not in body
        assert len(notes) == 1


class TestFormats:
    def test_a_schema_in_the_apis_words_is_its_own(self) -> None:
        wanted = call(MODEL, response_format=JsonSchemaFormat("n", SCHEMA), reasoning_effort=ReasoningEffort.LOW)

        body, _ = encoded(wanted, {"type": "object"})

        assert body["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}}
        assert "tools" not in body

    @pytest.mark.parametrize(
        ("fields", "choice"),
        [
            ({}, {"type": "tool", "name": JSON_TOOL}),
            ({"tools": (WEATHER,)}, {"type": "any"}),
            ({"tools": (WEATHER,), "tool_choice": ToolChoiceMode.NONE}, {"type": "tool", "name": JSON_TOOL}),
            ({"tools": (WEATHER,), "tool_choice": NamedTool("weather")}, {"type": "tool", "name": "weather"}),
            ({"reasoning_effort": ReasoningEffort.LOW}, {"type": "auto"}),
        ],
    )
    def test_any_other_is_asked_for_by_a_tool(self, fields: dict[str, Any], choice: dict[str, Json]) -> None:
        body, _ = encoded(call(MODEL, response_format=JsonSchemaFormat("n", SCHEMA), **fields))

        assert body["tools"][-1]["input_schema"] == SCHEMA
        assert body["tool_choice"] == choice

    def test_any_object_is_asked_for_by_a_tool(self) -> None:
        body, _ = encoded(call(MODEL, response_format=JsonObjectFormat()))

        assert body["tools"][-1]["input_schema"] == {"type": "object"}

    def test_a_schema_without_an_object_at_its_root_is_refused(self) -> None:
        with pytest.raises(Refused):
            encoded(call(MODEL, response_format=JsonSchemaFormat("n", {"not": {}})))


class TestWhatTheApiDoesNotTake:
    def test_is_left_out_with_notes(self) -> None:
        body, notes = encoded(call(MODEL, **FIELDS))

        assert not set(body) & set(FIELDS)
        assert [note.split()[0] for note in notes] == ["temperature", "topP", "seed"]

    @pytest.mark.parametrize(("field", "name"), [("temperature", "temperature"), ("top_p", "topP"), ("seed", "seed")])
    def test_is_refused_where_the_route_says_so(self, field: str, name: str) -> None:
        with pytest.raises(Refused) as caught:
            encoded(call(MODEL, unsupported=UnsupportedPolicy.REFUSE, **{field: FIELDS[field]}))

        assert isinstance(caught.value.reason, InvalidInput)
        assert caught.value.reason.path == (name,)


class TestSampling:
    @pytest.mark.parametrize(
        "model",
        [
            "claude-instant-1.2",
            "claude-2.1",
            "claude-3-haiku-20240307",
            "claude-3-7-sonnet-20250219",
            "claude-sonnet-4-20250514",
            "claude-opus-4-0",
            "anthropic/claude-sonnet-4",
            "glm-4.7",
        ],
    )
    def test_of_models_that_take_it_is_sent_as_it_was_asked_for(self, model: str) -> None:
        assert sampling(call(model, **FIELDS), frozenset()) == {"temperature": 0.1, "top_p": 0.9}

    @pytest.mark.parametrize(
        "model",
        [
            "claude-opus-4-7",
            "claude-opus-4-8-20260801",
            "claude-sonnet-5",
            "claude-haiku-5-5",
            "claude-fable-5-1",
            "claude-opus-4.7",
        ],
    )
    def test_of_models_that_refuse_it_is_left_out(self, model: str) -> None:
        assert sampling(call(model, **FIELDS), frozenset()) == {}

    @pytest.mark.parametrize("model", ["claude-opus-4-1-20250805", "claude-sonnet-4-5", "claude-opus-4-6", "claude-haiku-4.5"])
    def test_of_models_that_take_one_of_two_is_the_temperature(self, model: str) -> None:
        body, notes = encoded_as_sampled(call(model, temperature=0.1, top_p=0.9))

        assert (body.get("temperature"), body.get("top_p")) == (0.1, None)
        assert notes == [f"topP was left out: {model} does not take it."]
        assert sampling(call(model, top_p=0.9), frozenset()) == {"top_p": 0.9}

    def test_above_what_the_provider_takes_is_lowered_with_a_note(self) -> None:
        body, notes = encoded_as_sampled(call(OLDER, temperature=1.5))

        assert body["temperature"] == 1
        assert notes == [f"temperature was changed from 1.5 to 1: {OLDER} does not take 1.5."]

    def test_above_what_the_provider_takes_is_refused_where_the_route_says_so(self) -> None:
        with pytest.raises(Refused):
            encoded_as_sampled(call(OLDER, temperature=1.5, unsupported=UnsupportedPolicy.REFUSE))

    def test_is_left_out_while_the_model_thinks(self) -> None:
        wanted = call("claude-opus-4-6", temperature=0.2, top_p=0.5, reasoning_effort=ReasoningEffort.LOW)

        assert sampling(wanted, frozenset()) == {}
        assert sampling(replace(wanted, top_p=0.97), frozenset()) == {"top_p": 0.97}

    def test_that_was_refused_before_is_left_out(self) -> None:
        assert sampling(call("glm-4.7", **FIELDS), frozenset({"temperature"})) == {"top_p": 0.9}
