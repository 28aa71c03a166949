from __future__ import annotations

from typing import Any

import msgspec
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
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
from app.llm.providers.openai.request import encode_request
from app.llm.providers.unsupported import OTHER_REASONING, Notes
from tests.app.llm.calls import WEATHER, call, user

MODEL = "gpt-5.4-mini"
PARAMS: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsNonStreaming)
FIELDS: dict[str, Any] = {
    "temperature": 0.1,
    "top_p": 0.9,
    "seed": 4,
    "stop": ("a",),
    "reasoning_effort": ReasoningEffort.LOW,
}
THOUGHT: Json = {"format": "openai-compatible", "reasoning_content": "hm"}


def encoded(
    wanted: ModelCall, *, untaken: frozenset[str] = frozenset(), official: bool = True, stream: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """The body, which the SDK's own type accepts, and the notes."""
    notes = Notes(wanted)
    raw = encode_request(wanted, notes, untaken, official=official, stream=stream)
    body: dict[str, Any] = msgspec.json.decode(raw)
    if not stream:
        PARAMS.validate_python(body)
    return body, notes.texts


class TestMessages:
    def test_tool_calls_and_their_results_go_one_by_one(self) -> None:
        turn = Message(Role.ASSISTANT, (Text("so"),), (ToolCall("a", "weather", '{"city": "Basel"}'),))
        results = (
            Message(Role.TOOL, tool_result=ToolResult("a", "cold")),
            Message(Role.TOOL, tool_result=ToolResult("b", "no such city", is_error=True)),
        )

        body, _ = encoded(call(MODEL, user("hi"), turn, *results))

        assert body["messages"][1:] == [
            {
                "role": "assistant",
                "content": "so",
                "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Basel"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "a", "content": "cold"},
            {"role": "tool", "tool_call_id": "b", "content": "Error: no such city"},
        ]

    def test_images_go_by_address_and_inline(self) -> None:
        parts = (Text("what?"), ImageUrl("https://images.invalid/a.png"), InlineImage("aGVsbG8=", "image/png"))

        body, _ = encoded(call(MODEL, Message(Role.USER, parts)))

        assert [block["image_url"]["url"] for block in body["messages"][0]["content"][1:]] == [
            "https://images.invalid/a.png",
            "data:image/png;base64,aGVsbG8=",
        ]

    @pytest.mark.parametrize(("model", "marked"), [("gpt-5.4-mini", False), ("gpt-5.6", True), ("gpt-6-sol", True)])
    def test_cache_marks_go_to_models_that_take_them(self, model: str, *, marked: bool) -> None:
        body, notes = encoded(call(model, Message(Role.SYSTEM, (Text("rules"),), cache_up_to=True), user("hi")))

        assert ("prompt_cache_breakpoint" in str(body["messages"][0])) is marked
        assert notes == []

    def test_reasoning_goes_back_to_a_compatible_server_alone(self) -> None:
        turn = Message(Role.ASSISTANT, (Text("so"),), reasoning=THOUGHT)

        compatible, no_notes = encoded(call("deepseek", user("hi"), turn), official=False)
        official, notes = encoded(call(MODEL, user("hi"), turn))

        assert compatible["messages"][1] == {"role": "assistant", "content": "so", "reasoning_content": "hm"}
        assert official["messages"][1] == {"role": "assistant", "content": "so"}
        assert (no_notes, notes) == ([], [OTHER_REASONING])

    def test_half_a_surrogate_pair_is_refused(self) -> None:
        with pytest.raises(Refused):
            encoded(call(MODEL, user("\ud83d")))


class TestParameters:
    def test_go_as_they_are(self) -> None:
        body, notes = encoded(call(MODEL, **FIELDS))

        assert {name: body[name] for name in FIELDS} == {
            **FIELDS,
            "stop": ["a"],
            "reasoning_effort": "low",
        }
        assert notes == []

    def test_that_were_refused_before_are_left_out_with_a_note(self) -> None:
        body, notes = encoded(call(MODEL, **FIELDS), untaken=frozenset({"top_p"}))

        assert "top_p" not in body
        assert notes == ["topP was left out: gpt-5.4-mini does not take it."]

    def test_that_were_refused_before_are_refused_where_the_route_says_so(self) -> None:
        with pytest.raises(Refused) as caught:
            encoded(call(MODEL, top_p=0.5, unsupported=UnsupportedPolicy.REFUSE), untaken=frozenset({"top_p"}))

        assert caught.value.reason == InvalidInput(f"{MODEL} does not take topP.", ("topP",))

    @pytest.mark.parametrize(
        ("official", "untaken", "name"),
        [
            (True, frozenset(), "max_completion_tokens"),
            (False, frozenset(), "max_tokens"),
            (False, frozenset({"max_tokens"}), "max_completion_tokens"),
        ],
    )
    def test_the_cap_has_the_name_that_the_server_knows(self, untaken: frozenset[str], name: str, *, official: bool) -> None:
        body, notes = encoded(call(MODEL), untaken=untaken, official=official)

        assert (body[name], notes) == (64, [])

    def test_a_stream_asks_for_its_usage(self) -> None:
        body, _ = encoded(call(MODEL), stream=True)

        assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})


class TestToolsAndFormats:
    @pytest.mark.parametrize(
        ("choice", "sent"),
        [
            (ToolChoiceMode.AUTO, "auto"),
            (ToolChoiceMode.NONE, "none"),
            (ToolChoiceMode.REQUIRED, "required"),
            (NamedTool("weather"), {"type": "function", "function": {"name": "weather"}}),
        ],
    )
    def test_a_choice_of_tools(self, choice: ToolChoiceMode | NamedTool, sent: Json) -> None:
        body, _ = encoded(call(MODEL, tools=(WEATHER,), tool_choice=choice))

        assert body["tool_choice"] == sent
        assert body["tools"][0]["function"]["parameters"] == WEATHER.parameters

    @pytest.mark.parametrize(
        ("schema", "strict"),
        [
            ({"type": "object", "properties": {"n": {}}, "required": ["n"], "additionalProperties": False}, True),
            ({"type": "object", "properties": {"n": {}}, "required": [], "additionalProperties": False}, False),
            ({"type": "object", "properties": {"n": {}}, "required": ["n"]}, False),
            ({"type": "array", "items": {"type": "object"}}, False),
        ],
    )
    def test_a_schema_is_strict_where_it_can_be(self, schema: dict[str, Json], *, strict: bool) -> None:
        body, _ = encoded(call(MODEL, response_format=JsonSchemaFormat("n", schema)))

        assert body["response_format"]["json_schema"] == {"name": "n", "schema": schema, "strict": strict}

    def test_any_object_needs_a_word_of_json(self) -> None:
        silent, notes = encoded(call(MODEL, user("give me one"), response_format=JsonObjectFormat()))
        spoken, no_notes = encoded(call(MODEL, user("give me Json"), response_format=JsonObjectFormat()))

        assert ([len(silent["messages"]), len(spoken["messages"])], len(notes), no_notes) == ([2, 1], 1, [])
