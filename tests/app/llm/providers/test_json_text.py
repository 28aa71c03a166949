"""Answers in JSON with something around it: the JSON is read and shown, and a whole answer is what a streamed one is."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llm.providers.json_text import JsonText, bare_json

VALUE = '{"a": "x } \\" ``` \\\\", "b": [1, {"c": "]"}]}'


def shown(pieces: list[str]) -> list[str]:
    reading = JsonText()
    return [*(reading.take(piece) for piece in pieces), reading.end()]


class TestJson:
    @pytest.mark.parametrize(
        "around",
        [
            "```json\n{}\n```",
            "```\n{}\n```",
            "```JSON\n{}\n```\n",
            "```jsonc\r\n{}\r\n```",
            "``` json {} ```",
            "~~~json\n{}\n~~~",
            "````json\n{}\n````",
            "Here it is:\n\n```json\n{}\n```\n\nI hope that this helps: {{x}}.",
            "\ufeff```json\n{}\n```",
            "```json\n{}",
            "First some code:\n```python\nprint(1)\n```\nand now:\n```json\n{}\n```",
        ],
    )
    def test_is_taken_out_of_its_fence(self, around: str) -> None:
        for value in (VALUE, "[1, 2]", "{}"):
            assert bare_json(around.replace("{}", value, 1)) == (value, True)

    @pytest.mark.parametrize("around", ["{}", " \n{}", "\ufeff{}", "\ufeff\n {}", "\n\ufeff{}"])
    def test_is_found_after_white_space_and_a_byte_order_mark(self, around: str) -> None:
        assert bare_json(around.replace("{}", VALUE, 1)) == (VALUE, False)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "12",
            "true",
            "null",
            '"```json {} ```"',
            "no JSON",
            "Here: {}",
            "```python\n[1]\n```",
            '{"a": "```json\\n{}\\n```"}',
            "```",
        ],
    )
    def test_is_left_as_it_is_without_a_fence(self, text: str) -> None:
        assert bare_json(text) == (text, False)

    def test_that_was_cut_in_its_fence_is_shown_as_far_as_it_came(self) -> None:
        assert bare_json('```json\n{"a": [1, "x') == ('{"a": [1, "x', True)

    def test_is_shown_as_soon_as_it_comes(self) -> None:
        assert shown(["Here:\n``", "`json\n", '{"a"', ": 1", "}", "\n```", "Bye"]) == ["", "", '{"a"', ": 1", "}", "", "", ""]
        assert shown(['{"a"', ": 1}", "\n"]) == ['{"a"', ": 1}", "\n", ""]
        assert shown(["No ", "JSON"]) == ["", "", "No JSON"]

    @given(
        st.sampled_from(["", " ", "\ufeff", "Here:\n", "Code: ```\nx\n```\n", "~~~ "]),
        st.sampled_from(["", "```json\n", "```\n", "```  JSON  \n\n", "```python\n"]),
        st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)),
        st.sampled_from(["", "\n```", "\n```\nBye ```json\n{}\n```", " {"]),
        st.data(),
    )
    def test_is_the_same_in_any_pieces(self, before: str, fence: str, value: object, after: str, data: st.DataObject) -> None:
        text = before + fence + json.dumps(value, ensure_ascii=False) + after
        cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=10))
        edges = [0, *sorted(cuts), len(text)]
        assert "".join(shown([text[start:end] for start, end in pairwise(edges)])) == bare_json(text)[0]
        if "json" in fence.lower() and isinstance(value, list | dict) and "```" not in before:
            assert json.loads(bare_json(text)[0]) == value
