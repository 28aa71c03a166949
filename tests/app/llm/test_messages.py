from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from app.llm.messages import ContentDelta, ReasoningDelta, TextDelta, ToolCallDelta, merged

texts = st.builds(TextDelta, st.text(max_size=3)) | st.builds(ReasoningDelta, st.text(max_size=3))
tool_calls = st.builds(ToolCallDelta, st.sampled_from("ab"), st.text(max_size=3), st.sampled_from([None, "look"]))


def reported(parts: list[ContentDelta]) -> list[tuple[str, str]]:
    """Letter by letter, by whom; a tool's name as it comes."""
    found: list[tuple[str, str]] = []
    for part in parts:
        if isinstance(part, TextDelta | ReasoningDelta):
            found += [(type(part).__name__, letter) for letter in part.text]
        else:
            found += [(part.tool_call_id, f"name {part.name}")] if part.name else []
            found += [(part.tool_call_id, letter) for letter in part.arguments_delta]
    return found


class TestMerged:
    @given(st.lists(st.one_of(texts, tool_calls), max_size=12))
    def test_says_the_same_in_the_same_order(self, parts: list[ContentDelta]) -> None:
        assert reported([*merged(parts)]) == reported(parts)

    @given(st.lists(st.one_of(texts, tool_calls), max_size=12))
    def test_has_no_neighbours_that_could_be_one(self, parts: list[ContentDelta]) -> None:
        found = merged(parts)
        for one, other in pairwise(found):
            assert isinstance(one, ToolCallDelta) or type(one) is not type(other)
            if isinstance(one, ToolCallDelta) and isinstance(other, ToolCallDelta):
                assert one.tool_call_id != other.tool_call_id or other.name is not None
