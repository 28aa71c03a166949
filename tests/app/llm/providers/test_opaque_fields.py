from __future__ import annotations

from typing import Any

import pytest

from app.domain.errors import Refused
from app.llm.messages import Message, ProviderState, Role, Text, ToolCall
from app.llm.providers.anthropic import request as anthropic_request
from app.llm.providers.opaque_fields import OTHER_STATE, Fields, Maker, fields_of, join, unknown_fields
from app.llm.providers.openai import request as openai_request
from app.llm.providers.unsupported import Notes
from tests.app.llm.calls import call, user

GEMINI = Maker("gemini", "openai-compatible")
STATE = ProviderState("gemini", "openai-compatible", '{"signature": "SIG"}')


class TestUnknownFields:
    def test_are_those_that_say_something(self) -> None:
        body: dict[str, object] = {"content": "hi", "a": None, "b": "", "c": [], "d": {}, "e": False, "f": 0, "g": True, "h": "x"}
        assert unknown_fields(body, {"content"}) == {"f": 0, "g": True, "h": "x"}


class TestTheChunksOfAStream:
    @pytest.mark.parametrize(
        ("chunks", "whole"),
        [
            ([{"thought": "I th"}, {"thought": "ink"}], {"thought": "I think"}),
            ([{"signature": "SIG"}, {"signature": "SIG"}], {"signature": "SIG"}),
            (
                [{"extra_content": {"google": {"thought": True}}}, {"extra_content": {"google": {"thought_signature": "S"}}}],
                {"extra_content": {"google": {"thought": True, "thought_signature": "S"}}},
            ),
            (
                [
                    {"reasoning_details": [{"type": "reasoning.text", "text": "I ", "index": 0, "format": "f"}]},
                    {"reasoning_details": [{"type": "reasoning.text", "text": "think", "index": 0, "format": "f"}]},
                    {"reasoning_details": [{"type": "reasoning.text", "signature": "SIG", "index": 0, "format": "f"}]},
                    {"reasoning_details": [{"type": "reasoning.encrypted", "data": "D1", "index": 1}]},
                    {"reasoning_details": [{"type": "reasoning.encrypted", "data": "D2", "index": 1}]},
                ],
                {
                    "reasoning_details": [
                        {"type": "reasoning.text", "text": "I think", "index": 0, "format": "f", "signature": "SIG"},
                        {"type": "reasoning.encrypted", "data": "D1", "index": 1},
                        {"type": "reasoning.encrypted", "data": "D2", "index": 1},
                    ]
                },
            ),
            (
                [
                    {"thinking_blocks": [{"type": "thinking", "thinking": "a", "signature": ""}]},
                    {"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "SIG"}]},
                    {"thinking_blocks": [{"type": "thinking", "thinking": "b", "signature": ""}]},
                ],
                {
                    "thinking_blocks": [
                        {"type": "thinking", "thinking": "a", "signature": "SIG"},
                        {"type": "thinking", "thinking": "b", "signature": ""},
                    ]
                },
            ),
            ([{"turn": 1}, {"turn": 2}], {"turn": 2}),
            ([{"data": [1]}, {"data": "x"}], {"data": "x"}),
        ],
        ids=["text", "repeated signature", "objects", "OpenRouter", "LiteLLM", "number", "another type"],
    )
    def test_are_joined(self, chunks: list[dict[str, Any]], whole: object) -> None:
        fields: Fields = {}
        for each in chunks:
            join(fields, each)
        assert fields == whole


class TestAnotherProvidersState:
    @pytest.mark.parametrize(
        "other", [Maker("gemini", "openai"), Maker("vertex", "openai-compatible"), Maker("anthropic", "anthropic")]
    )
    def test_is_not_sent_and_noted_once(self, other: Maker) -> None:
        made = (ToolCall("a", "weather", "{}", STATE), ToolCall("b", "weather", "{}", STATE))
        turn = Message(Role.ASSISTANT, tool_calls=made, provider_state=STATE)
        wanted = call("some-model", user("hi"), turn)
        notes = Notes(wanted)
        sent = other.with_own_state(wanted, notes)
        assert sent.messages[1] == Message(
            Role.ASSISTANT, tool_calls=(ToolCall("a", "weather", "{}"), ToolCall("b", "weather", "{}"))
        )
        assert notes.texts == [OTHER_STATE]
        assert (GEMINI.with_own_state(wanted, notes), len(notes.texts)) == (wanted, 1)


class TestStateThatWasForged:
    @pytest.mark.parametrize("value", ["5", "[]", '"x"', "null"])
    def test_is_refused_if_it_cannot_be_sent(self, value: str) -> None:
        made = ToolCall("a", "weather", "{}", ProviderState("w", "openai-compatible", f'{{"function": {value}}}'))
        wanted = call("some-model", user("hi"), Message(Role.ASSISTANT, tool_calls=(made,)))
        with pytest.raises(Refused):
            openai_request.encode_request(wanted, Notes(wanted), set(), official=False, stream=False)

    @pytest.mark.parametrize("value", ["5", "{}", "[[0]]", '[["0", {}]]', "[[0, 5]]"])
    def test_is_refused_if_its_blocks_cannot_be_placed(self, value: str) -> None:
        state = ProviderState("a", "anthropic", f'{{"blocks": {value}}}')
        wanted = call("some-model", user("hi"), Message(Role.ASSISTANT, (Text("hi"),), provider_state=state))
        with pytest.raises(Refused):
            anthropic_request.encode_request(wanted, Notes(wanted), None, set(), stream=False)


class TestOwnState:
    def test_is_given_back_to_the_letter(self) -> None:
        written = '{"a": 1.0, "b": 12345678901234567890123, "c": {"d":  [ ] }}'
        state = ProviderState("gemini", "openai-compatible", written)
        found = fields_of(ToolCall("a", "weather", "{}", state), set())
        assert {name: bytes(value) for name, value in found.items()} == {
            "a": b"1.0", "b": b"12345678901234567890123", "c": b'{"d":  [ ] }',
        }  # fmt: skip

    def test_takes_no_known_fields_place_and_buys_nothing(self) -> None:
        state = ProviderState("gemini", "openai-compatible", '{"role": "system", "cache_control": {}, "x": 1}')
        assert set(fields_of(Message(Role.ASSISTANT, provider_state=state), {"role"})) == {"x"}

    def test_is_none_if_there_are_no_fields(self) -> None:
        assert (GEMINI.state({}), GEMINI.state(None)) == (None, None)
