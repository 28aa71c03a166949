from __future__ import annotations

import json

import pytest

from app.llm.messages import FinishReason, JsonObjectFormat, TextDelta
from app.llm.providers.anthropic.stream import AnthropicStream
from app.llm.providers.unsupported import Notes
from tests.app.llm.calls import call

CALL = call("claude-haiku-5-5", response_format=JsonObjectFormat())
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
