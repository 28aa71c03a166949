from __future__ import annotations

import pytest

from app.llm.messages import Message, ModelCall, Role, ToolCall, ToolResult
from app.llm.providers.call_names import CHANGED_NAME, CallNames
from app.llm.providers.unsupported import Notes
from tests.app.llm.calls import call, user

NAMES = CallNames("call_", max_id_length=40, max_name_length=64)


def conversation(call_id: str, name: str) -> ModelCall:
    turn = Message(Role.ASSISTANT, tool_calls=(ToolCall("call_1", "now", "{}"), ToolCall(call_id, name, "{}")))
    results = (Message(Role.TOOL, tool_result=ToolResult(each, "rain")) for each in ("call_1", call_id))
    return call("some-model", user("hi"), turn, *results)


class TestIds:
    @pytest.mark.parametrize("call_id", ["functions.weather:0", "call_" + "x" * 36, "a b", "é", "chatcmpl-tool/1"])
    def test_that_another_provider_gave_are_the_same_in_call_and_result(self, call_id: str) -> None:
        wanted = conversation(call_id, "weather")
        notes = Notes(wanted)
        sent = NAMES.fit(wanted, notes)
        first, made = sent.messages[1].tool_calls
        assert [message.tool_result.id for message in sent.messages[2:] if message.tool_result] == [first.id, made.id]
        assert (first.id, made.id.startswith("call_"), len(made.id) <= 40, made.id != call_id) == ("call_1", True, True, True)
        assert notes.texts == []

    def test_that_fit_stay(self) -> None:
        wanted = conversation("toolu_01A-b", "weather")
        assert NAMES.fit(wanted, Notes(wanted)) == wanted


class TestNames:
    @pytest.mark.parametrize(
        ("name", "sent"), [("default_api.weather", "default_api_weather"), ("what now?", "what_now_"), ("n" * 65, "n" * 64)]
    )
    def test_that_a_model_made_up_are_changed_with_a_note(self, name: str, sent: str) -> None:
        wanted = conversation("call_2", name)
        notes = Notes(wanted)
        assert [made.name for made in NAMES.fit(wanted, notes).messages[1].tool_calls] == ["now", sent]
        assert notes.texts == [CHANGED_NAME]
