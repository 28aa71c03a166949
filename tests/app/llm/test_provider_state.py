from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llm.messages import Json, ProviderState, ToolCall
from app.llm.provider_state import from_json, to_json, with_state, without_state

STATE = ProviderState("gemini", "openai-compatible", '{"extra_content": {"google": {"thought_signature": "SIG"}}}')
FIELDS = st.sampled_from(
    ["{}", '{"a": 1.0}', '{"deep": [[[{"b": null}]]]}', '{"n": 12345678901234567890123}', '{"\\u0000": "é"}']
)
STATES = st.builds(ProviderState, st.text(), st.text(), FIELDS)
REASONING: st.SearchStrategy[Json] = st.none() | st.dictionaries(st.text(max_size=5), st.text(), min_size=1)


class TestProviderState:
    @given(STATES)
    def test_comes_back_to_the_letter(self, state: ProviderState) -> None:
        assert from_json(to_json(state)) == state

    @pytest.mark.parametrize(
        "value",
        [
            None, 7, "SIG", [], {}, {"provider": "gemini"}, {"provider": "g", "kind": "k", "fields": {}},
            {"provider": "g", "kind": "k", "fields": "[]"}, {"provider": "g", "kind": "k", "fields": "{"},
            {"provider": "g", "kind": "k", "fields": "{}", "more": 1}, {"provider": None, "kind": "k", "fields": "{}"},
            {"provider": "g", "kind": "k", "fields": '{"a":' * 5000 + "1" + "}" * 5000},
        ],
    )  # fmt: skip
    def test_that_was_changed_is_refused(self, value: object) -> None:
        with pytest.raises(ValueError, match=r"."):
            from_json(value)


class TestReasoning:
    @given(REASONING, st.none() | STATES, st.dictionaries(st.text(min_size=1), STATES, max_size=3))
    def test_brings_back_the_state_of_the_message_and_of_each_call(
        self, reasoning: Json, message: ProviderState | None, calls: dict[str, ProviderState]
    ) -> None:
        made = [ToolCall(call_id, "weather", "{}", state) for call_id, state in calls.items()]
        read = without_state(with_state(reasoning, message, [*made, ToolCall("without state", "weather", "{}")]))
        assert (read.reasoning, read.message, dict(read.tool_calls)) == (reasoning, message, calls)

    def test_is_as_it_was_if_there_is_no_state(self) -> None:
        assert with_state(None, None, [ToolCall("a", "weather", "{}")]) is None
        assert with_state({"format": "anthropic"}, None, []) == {"format": "anthropic"}

    @pytest.mark.parametrize("value", [[{"opaque": "x"}], "text", {"format": "anthropic", "blocks": []}, None])
    def test_of_an_earlier_version_is_taken_as_it_is(self, value: Json) -> None:
        assert without_state(value).reasoning == value

    @pytest.mark.parametrize("within", [None, [], {"message": 7}, {"toolCalls": {"a": {}}}, {"more": 1}])
    def test_whose_state_was_changed_is_refused(self, within: Json) -> None:
        with pytest.raises(ValueError, match=r"."):
            without_state({"format": "anthropic", "providerState": within})
