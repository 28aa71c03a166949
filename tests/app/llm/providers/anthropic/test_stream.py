from __future__ import annotations

import json

import pytest

from app.llm.messages import FinishReason, JsonObjectFormat, TextDelta
from app.llm.providers.answers import REPEATED_ID
from app.llm.providers.anthropic.response import read_answer
from app.llm.providers.anthropic.stream import AnthropicStream
from app.llm.providers.unsupported import Notes
from tests.app.llm.calls import call, streamed_arguments

CALL = call("claude-haiku-5-5", response_format=JsonObjectFormat())
PLAIN = call("claude-haiku-5-5")
USAGE = {"input_tokens": 3, "output_tokens": 9}


def text(index: int, *pieces: str) -> list[object]:
    return [
        {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": piece}} for piece in pieces),
        {"type": "content_block_stop", "index": index},
    ]


def tool(index: int, *pieces: str) -> list[object]:
    deltas = ({"type": "input_json_delta", "partial_json": piece} for piece in pieces)
    return [
        {"type": "content_block_start", "index": index, "content_block": {"type": "tool_use", "id": "t", "name": "json_answer"}},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def stop(reason: str) -> list[object]:
    return [{"type": "message_delta", "delta": {"stop_reason": reason}, "usage": USAGE}, {"type": "message_stop"}]


class TestAnAnswerByTool:
    @pytest.mark.parametrize(
        ("events", "whole"),
        [
            ([*text(0, "Here ", "it is:"), *tool(1, '{"a"', ": 1}"), *stop("tool_use")], '{"a": 1}'),
            ([*text(0, '{"a"', ": 1}"), *stop("end_turn")], '{"a": 1}'),
            ([*text(0, '{"a": 1}'), {"type": "message_stop"}], '{"a": 1}'),
        ],
        ids=["after a preamble", "in words instead", "without a stop reason"],
    )
    def test_shows_in_its_pieces_what_the_whole_answer_has(self, events: list[object], whole: str) -> None:
        reader = AnthropicStream(CALL, Notes(CALL), None, by_tool=True)
        parts = [part for event in events for part in reader.read(json.dumps(event).encode())]
        answer = reader.answer()
        assert "".join(part.text for part in parts if isinstance(part, TextDelta)) == answer.text == whole
        assert (reader.complete, answer.finish_reason) == (True, FinishReason.STOP)


def block(index: int | None, call_id: str | None, value: object, *pieces: str, stop: bool = True) -> list[dict[str, object]]:
    """The events of a tool_use block: `value` is the input of its start."""
    place = {} if index is None else {"index": index}
    start = {"type": "tool_use", "id": call_id, "name": "weather", "input": value}
    deltas = ({"type": "input_json_delta", "partial_json": piece} for piece in pieces)
    return [
        {"type": "content_block_start", **place, "content_block": start},
        *({"type": "content_block_delta", **place, "delta": delta} for delta in deltas),
        *([{"type": "content_block_stop", **place}] if stop else []),
    ]


class TestToolCalls:
    @pytest.mark.parametrize(
        "events",
        [
            [*block(0, "a", {"city": "Oslo"}), *block(1, "b", {"city": "Rome"})],
            [*block(0, "a", {"city": "Oslo"}), *block(0, "b", {"city": "Rome"})],
            [*block(None, "a", {"city": "Oslo"}), *block(None, "b", {"city": "Rome"})],
            [*block(0, "a", {"city": "Oslo"}, stop=False), *block(1, "b", {"city": "Rome"}, stop=False)],
            [*block(0, "a", {"city": "Oslo"}, stop=False), *block(0, "b", {"city": "Rome"}, stop=False)],
            [*block(0, "a", '{"city": "Oslo"}'), *block(1, "b", '{"city": "Rome"}')],
            [*block(0, "a", {"city": "Oslo"}, '{"city":', ' "Oslo"}'), *block(1, "b", {}, '{"city": "Rome"}')],
            [*block(0, "a", {}, '{"city": "Oslo"}'), *block(0, "b", {}, '{"city": "Rome"}')],
            [*block(0, None, {}, '{"city": "Oslo"}'), *block(1, None, {}, '{"city": "Rome"}')],
            [*block(0, "a", {}, '{"city": "Oslo"}'), *block(1, "a", {}, '{"city": "Rome"}')],
        ],
        ids=[
            "input at the start",
            "input at the start, one index",
            "input at the start, no index",
            "input at the start, no stop",
            "input at the start, no stop, one index",
            "input at the start as text",
            "input at the start and in pieces",
            "one index",
            "no id",
            "one id",
        ],
    )
    def test_are_separate_and_show_what_the_whole_answer_has(self, events: list[object]) -> None:
        reader = AnthropicStream(PLAIN, Notes(PLAIN), None)
        parts = [part for event in [*events, *stop("tool_use")] for part in reader.read(json.dumps(event).encode())]
        made = reader.answer().tool_calls
        assert [each.arguments for each in made] == ['{"city": "Oslo"}', '{"city": "Rome"}']
        assert streamed_arguments(list(parts)) == {each.id: each.arguments for each in made}
        assert len({each.id for each in made}) == 2

    def test_with_one_id_say_so(self) -> None:
        notes = Notes(PLAIN)
        reader = AnthropicStream(PLAIN, notes, None)
        for event in [*block(0, "a", {}), *block(1, "a", {}), *stop("tool_use")]:
            reader.read(json.dumps(event).encode())
        assert [each.id == "a" for each in reader.answer().tool_calls] == [True, False]
        whole = {"content": [{"type": "tool_use", "id": "a", "name": "weather", "input": {}}] * 2, "stop_reason": "tool_use"}
        also = Notes(PLAIN)
        assert [each.id == "a" for each in read_answer(json.dumps(whole).encode(), PLAIN, also).tool_calls] == [True, False]
        assert REPEATED_ID in notes.texts
        assert REPEATED_ID in also.texts

    def test_have_their_input_as_it_was_written(self) -> None:
        written = '{ "b":1.0,"a":[ 12345678901234567890123, 1e2 ] }'
        started = f'{{"type": "tool_use", "id": "a", "name": "weather", "input": {written}}}'
        reader = AnthropicStream(PLAIN, Notes(PLAIN), None)
        reader.read(f'{{"type": "content_block_start", "index": 0, "content_block": {started}}}'.encode())
        for event in stop("tool_use"):
            reader.read(json.dumps(event).encode())
        assert [each.arguments for each in reader.answer().tool_calls] == [written]

    @pytest.mark.parametrize("text", ['{"city": "Oslo"', "Oslo", "null", "[1]", '{"a": 1}{"b": 2}'])
    def test_that_are_no_json_are_kept_to_the_letter(self, text: str) -> None:
        reader = AnthropicStream(PLAIN, Notes(PLAIN), None)
        for event in [*block(0, "a", {}, *text), *stop("max_tokens")]:
            reader.read(json.dumps(event).encode())
        assert [each.arguments for each in reader.answer().tool_calls] == [text]
