"""Parallel tool calls of servers that number their pieces in their own ways."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.llm.messages import FinishReason, ToolCallDelta
from app.llm.providers.answers import REPEATED_ID, WholeAnswer
from app.llm.providers.openai.content import LEGACY_CALL
from app.llm.providers.openai.response import read_answer
from app.llm.providers.openai.stream import OpenAIStream
from app.llm.providers.openai.tool_calls import REPEATED_CALL
from app.llm.providers.unsupported import Notes
from app.llm.providers.wire_text import Malformed
from tests.app.llm.calls import call, streamed_arguments

CALL = call("some-model", max_output_tokens=4096)
OSLO, ROME = '{"city": "Oslo"}', '{"city": "Rome"}'
BOTH = [("weather", OSLO), ("weather", ROME)]


def piece(index: int | None = None, call_id: str | None = None, name: str | None = None, arguments: str | None = None) -> object:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    fields = {"index": index, "id": call_id, "function": function or None}
    return {key: value for key, value in fields.items() if value is not None}


def streamed(pieces: Sequence[object], finish: str = "tool_calls", *, together: bool = False) -> tuple[WholeAnswer, Notes]:
    """Each piece in a chunk of its own, or all in one; what was shown is what the whole answer has."""
    notes = Notes(CALL)
    reader = OpenAIStream(CALL, notes, None)
    deltas: list[Any] = [{"tool_calls": list(pieces)}] if together else [{"tool_calls": [each]} for each in pieces]
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    parts = [part for each in chunks for part in reader.read(json.dumps(each).encode())]
    answer = reader.answer()
    shown = streamed_arguments(list(parts))
    assert {made.id: made.arguments for made in answer.tool_calls} == {key: text or "{}" for key, text in shown.items()}
    names = [(part.tool_call_id, part.name) for part in parts if isinstance(part, ToolCallDelta) and part.name]
    assert names == [(made.id, made.name) for made in answer.tool_calls]
    return answer, notes


def read(calls: object, **message: object) -> tuple[WholeAnswer, Notes]:
    notes = Notes(CALL)
    body = {"choices": [{"message": {"content": None, "tool_calls": calls, **message}, "finish_reason": "tool_calls"}]}
    return read_answer(json.dumps(body).encode(), CALL, notes), notes


def said(answer: WholeAnswer) -> list[tuple[str, str]]:
    return [(made.name, made.arguments) for made in answer.tool_calls]


WHOLE_PIECES = {
    "an index each": [piece(0, "a", "weather", OSLO), piece(1, "b", "weather", ROME)],
    "one index, an id each": [piece(0, "a", "weather", OSLO), piece(0, "b", "weather", ROME)],
    "no index, an id each": [piece(None, "a", "weather", OSLO), piece(None, "b", "weather", ROME)],
    "one index, no id": [piece(0, None, "weather", OSLO), piece(0, None, "weather", ROME)],
    "no index, no id": [piece(None, None, "weather", OSLO), piece(None, None, "weather", ROME)],
    "an index each, one id": [piece(0, "a", "weather", OSLO), piece(1, "a", "weather", ROME)],
    "one index, one id": [piece(0, "a", "weather", OSLO), piece(0, "a", "weather", ROME)],
    "an index that jumps": [piece(4, "a", "weather", OSLO), piece(2, "b", "weather", ROME)],
}
CUT_PIECES = {
    "one index, the id at the start": [
        piece(0, "a", "weather", ""), piece(0, None, None, '{"city": '), piece(0, None, None, '"Oslo"}'),
        piece(0, "b", "weather", ""), piece(0, None, None, '{"city": '), piece(0, None, None, '"Rome"}'),
    ],
    "the index at the start alone": [
        piece(0, "a", "weather", ""), piece(None, None, None, '{"city": '), piece(None, None, None, '"Oslo"}'),
        piece(1, "b", "weather", ""), piece(None, None, None, '{"city": '), piece(None, None, None, '"Rome"}'),
    ],
    "an index that begins with the pieces": [
        piece(None, "a", "weather", ""), piece(0, None, None, OSLO),
        piece(None, "b", "weather", ""), piece(1, None, None, ROME),
    ],
    "id and name in every piece": [
        piece(0, "a", "weather", '{"city": '), piece(0, "a", "weather", '"Oslo"}'), piece(0, "a", "weather", ""),
        piece(1, "b", "weather", '{"city": '), piece(1, "b", "weather", '"Rome"}'), piece(1, "b", "weather", ""),
    ],
    "the name in every piece": [
        piece(0, None, "weather", '{"city": '), piece(0, None, "weather", '"Oslo"}'),
        piece(0, None, "weather", '{"city": '), piece(0, None, "weather", '"Rome"}'),
    ],
    "the name in every piece, no index": [
        piece(None, None, "weather", '{"city": '), piece(None, None, "weather", '"Oslo"}'),
        piece(None, None, "weather", '{"city": '), piece(None, None, "weather", '"Rome"}'),
    ],
    "another id in every piece": [
        piece(0, "a", "weather", '{"city": '), piece(0, "a2", None, '"Oslo"}'),
        piece(1, "b", "weather", '{"city": '), piece(1, "b2", None, '"Rome"}'),
    ],
    "the index counts pieces": [
        piece(0, "a", "weather", '{"city": '), piece(1, "a", None, '"Oslo"}'),
        piece(2, "b", "weather", '{"city": '), piece(3, "b", None, '"Rome"}'),
    ],
    "the id before the name": [
        piece(0, "a"), piece(0, None, "weather", '{"city": '), piece(0, None, None, '"Oslo"}'),
        piece(1, "b"), piece(1, "b", "weather", '{"city": '), piece(1, None, None, '"Rome"}'),
    ],
    "by turns, by index": [
        piece(0, "a", "weather", ""), piece(1, "b", "weather", ""), piece(0, None, None, '{"city": '),
        piece(1, None, None, '{"city": '), piece(0, None, None, '"Oslo"}'), piece(1, None, None, '"Rome"}'),
    ],
    "by turns, by id": [
        piece(0, "a", "weather", ""), piece(0, "b", "weather", ""), piece(0, "a", None, '{"city": '),
        piece(0, "b", None, '{"city": '), piece(0, "a", None, '"Oslo"}'), piece(0, "b", None, '"Rome"}'),
    ],
}  # fmt: skip


class TestParallelCalls:
    @pytest.mark.parametrize("together", [False, True], ids=["apart", "in one chunk"])
    @pytest.mark.parametrize("pieces", [*WHOLE_PIECES.values(), *CUT_PIECES.values()], ids=[*WHOLE_PIECES, *CUT_PIECES])
    def test_are_separate_in_a_stream(self, pieces: Sequence[object], *, together: bool) -> None:
        answer, _ = streamed(pieces, together=together)
        assert said(answer) == BOTH
        assert len({made.id for made in answer.tool_calls}) == 2
        assert answer.finish_reason is FinishReason.TOOL_CALLS

    @pytest.mark.parametrize("pieces", WHOLE_PIECES.values(), ids=WHOLE_PIECES)
    def test_of_a_whole_answer_have_an_id_each(self, pieces: Sequence[object]) -> None:
        answer, _ = read(pieces)
        assert said(answer) == BOTH
        assert len({made.id for made in answer.tool_calls}) == 2

    def test_of_different_tools_begin_with_their_names(self) -> None:
        answer, _ = streamed([piece(0, None, "weather", '{"city": "Os'), piece(0, None, "time", "{}")])
        assert said(answer) == [("weather", '{"city": "Os'), ("time", "{}")]

    def test_keep_the_ids_that_the_provider_gave_them(self) -> None:
        for answer, notes in (streamed(WHOLE_PIECES["one index, an id each"]), read(WHOLE_PIECES["an index each"])):
            assert [made.id for made in answer.tool_calls] == ["a", "b"]
            assert notes.texts == []

    @pytest.mark.parametrize("name", ["an index each, one id", "one index, one id"])
    def test_with_one_id_say_so_and_the_first_keeps_it(self, name: str) -> None:
        for answer, notes in (streamed(WHOLE_PIECES[name]), read(WHOLE_PIECES[name])):
            assert answer.tool_calls[0].id == "a"
            assert notes.texts == [REPEATED_ID]

    def test_of_which_one_comes_again_at_the_end_count_once(self) -> None:
        answer, notes = streamed([*WHOLE_PIECES["an index each"], *WHOLE_PIECES["an index each"]])
        assert said(answer) == BOTH
        assert notes.texts == [REPEATED_CALL]

    def test_without_arguments_have_empty_ones(self) -> None:
        answer, _ = streamed([piece(0, "a", "now"), piece(1, "b", "now", "")])
        assert said(answer) == [("now", "{}"), ("now", "{}")]


class TestAPieceThatBelongsToNoCall:
    @pytest.mark.parametrize(
        "pieces",
        [
            [piece(0, None, None, OSLO)],
            [piece(0, "a", "weather", OSLO), piece(1, None, None, ROME)],
            [piece(0, "a", "weather", OSLO), piece(1, "b", None, ROME)],
            [piece(0, "a")],
            [piece(0, "a"), piece(0, None, None, OSLO)],
            [piece(0, "a"), piece(1, "b", "weather", OSLO)],
            [piece(0, "a"), piece(1, "b")],
        ],
        ids=[
            "alone",
            "of an index whose start is lost",
            "of an id whose start is lost",
            "without a name",
            "without a name but with arguments",
            "without a name, before another call",
            "without a name, twice",
        ],
    )
    def test_is_malformed_and_not_put_to_another(self, pieces: Sequence[object]) -> None:
        with pytest.raises(Malformed):
            streamed(pieces)


class TestTheLegacyForm:
    def test_is_understood_and_noted(self) -> None:
        answer, notes = read(None, function_call={"name": "weather", "arguments": OSLO})
        assert (said(answer), notes.texts) == ([("weather", OSLO)], [LEGACY_CALL])

    def test_is_understood_and_noted_in_a_stream(self) -> None:
        notes = Notes(CALL)
        reader = OpenAIStream(CALL, notes, None)
        for each in ({"name": "weather", "arguments": ""}, {"arguments": '{"city": '}, {"arguments": '"Oslo"}'}):
            reader.read(json.dumps({"choices": [{"delta": {"function_call": each}}]}).encode())
        reader.read(b'{"choices": [{"delta": {}, "finish_reason": "function_call"}]}')
        assert (said(reader.answer()), notes.texts[:1]) == ([("weather", OSLO)], [LEGACY_CALL])

    def test_beside_the_new_one_says_the_same_call_once(self) -> None:
        new = [{"id": "a", "function": {"name": "weather", "arguments": OSLO}}]
        answer, notes = read(new, function_call={"name": "weather", "arguments": OSLO})
        assert (said(answer), notes.texts) == ([("weather", OSLO)], [])
        reader = OpenAIStream(CALL, Notes(CALL), None)
        delta = {"tool_calls": new, "function_call": {"name": "weather", "arguments": OSLO}}
        reader.read(json.dumps({"choices": [{"delta": delta, "finish_reason": "tool_calls"}]}).encode())
        assert said(reader.answer()) == [("weather", OSLO)]


class TestArgumentsThatAreNoJson:
    @pytest.mark.parametrize(
        "text", ['{"city": "Oslo"', "Oslo", "null", "[1]", ' {"a": 1}\n', '{"a": 1}{"b": 2}', '"\\ud83d"', "  "]
    )
    def test_are_kept_to_the_letter(self, text: str) -> None:
        in_pieces = [piece(0, "a", "weather"), *(piece(0, None, None, each) for each in text)]
        for answer, _ in (streamed(in_pieces), read([piece(0, "a", "weather", text)])):
            assert said(answer) == [("weather", text)]


@dataclass(frozen=True)
class Style:
    """How a server numbers and names the pieces of its calls."""

    index: str
    call_id: str
    name: str

    def pieces(self, place: int, made: tuple[str, list[str]]) -> list[object]:
        name, cut = made
        index = {"right": place, "always 0": 0, "none": None}[self.index]
        header = [] if self.name == "every piece" else [(True, "")]
        texts = [*header, *((not header and not number, text) for number, text in enumerate(cut))]
        return [
            piece(
                index,
                f"call_{place}" if self.call_id == "every piece" or (first and self.call_id == "first piece") else None,
                name if first or self.name == "every piece" else None,
                text,
            )
            for first, text in texts
        ]


STYLES = [
    Style(index, call_id, name)
    for index in ("right", "always 0", "none")
    for call_id in ("first piece", "every piece", "none")
    for name in ("first piece", "every piece")
]


@st.composite
def cut_arguments(draw: st.DrawFn) -> list[str]:
    text = json.dumps(
        draw(st.dictionaries(st.text(max_size=4), st.text(max_size=6) | st.integers(), max_size=3)), ensure_ascii=False
    )
    places = sorted(draw(st.sets(st.integers(1, len(text) - 1), max_size=4)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


class TestAnyNumberOfCalls:
    @pytest.mark.parametrize("style", STYLES, ids=lambda style: f"{style.index}-{style.call_id}-{style.name}")
    @given(calls=st.lists(st.tuples(st.sampled_from(["weather", "time"]), cut_arguments()), min_size=1, max_size=5))
    @settings(max_examples=15)
    def test_come_whole_however_a_server_numbers_and_cuts_them(self, style: Style, calls: list[tuple[str, list[str]]]) -> None:
        answer, _ = streamed([each for place, made in enumerate(calls) for each in style.pieces(place, made)])
        wanted = [(name, "".join(cut).replace("\0", "\ufffd")) for name, cut in calls]
        assert said(answer) == wanted
