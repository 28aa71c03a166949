"""Anthropic's events in another order than theirs, or with words in other places."""

from __future__ import annotations

import pytest

from app.llm.messages import JsonObjectFormat
from app.llm.providers.anthropic.stream import AnthropicStream
from app.llm.providers.unsupported import Notes
from tests.app.llm.calls import call
from tests.app.llm.providers.stream_events import STOP, delta, feed, whole
from tests.integration.payload_mutations import ANTHROPIC_EVENTS, TEXT


class TestBlocksOutOfOrder:
    def test_have_their_text_in_the_order_in_which_it_is_shown(self) -> None:
        start = {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}
        events = [*ANTHROPIC_EVENTS[:3], delta("Good "), start, delta("day ", 1), delta("to you"), STOP]
        assert whole(AnthropicStream, events)[0].text == "Good day to you"

    @pytest.mark.parametrize("left_out", [0, 1, 2, 6, 8])
    def test_need_neither_start_nor_end(self, left_out: int) -> None:
        events = [each for place, each in enumerate(ANTHROPIC_EVENTS) if place != left_out]
        assert whole(AnthropicStream, events)[0].text == TEXT

    def test_may_come_before_their_start(self) -> None:
        events = [delta("Good "), ANTHROPIC_EVENTS[1], delta("day"), ANTHROPIC_EVENTS[0], STOP, {"type": "message_stop"}]
        assert whole(AnthropicStream, events)[0].text == "Good day"

    def test_may_have_events_of_unknown_types_among_them(self) -> None:
        unknown = [{"type": "new"}, {"type": "ping", "x": 1}, {"type": "new", "message": "no"}, {"type": "vendor", "text": "no"}]
        deltas = [{"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": {"cited": "no"}}}]
        events = [each for event in ANTHROPIC_EVENTS for each in (*unknown, event)]
        assert whole(AnthropicStream, [*events[:20], *deltas, *events[20:]])[0].text == TEXT


class TestWordsInOtherPlaces:
    def test_at_the_start_of_a_message_are_read(self) -> None:
        message = {"content": [{"type": "text", "text": "Good "}, None], "usage": {"input_tokens": 1000}}
        events = [{"type": "message_start", "message": message}, *ANTHROPIC_EVENTS[1:3], delta("day"), STOP]
        assert whole(AnthropicStream, events)[0].text == "Good day"

    def test_in_a_message_delta_are_read(self) -> None:
        odd = {"type": "message_delta", "delta": {"type": "text_delta", "text": " day", "stop_reason": "end_turn"}}
        answer, _ = whole(AnthropicStream, [ANTHROPIC_EVENTS[0], delta("Good"), odd, STOP])
        assert answer.text == "Good day"


class TestUsageInAStream:
    @pytest.mark.parametrize("kind", ["message_delta", "message_stop", "vendor"])
    def test_of_anthropics_protocol_may_come_with_a_later_event(self, kind: str) -> None:
        stop = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
        later = {"type": kind, "amazon-bedrock-invocationMetrics": {"inputTokenCount": 1000, "outputTokenCount": 500}}
        answer, _ = whole(AnthropicStream, [*ANTHROPIC_EVENTS[:7], stop, later])
        assert (answer.usage.output_tokens, answer.usage.confirmed) == (500, True)


class TestAnAnswerByTool:
    def test_drops_half_a_character_of_the_text_that_leads_up_to_it(self) -> None:
        wanted = call("some-model", response_format=JsonObjectFormat())
        reader = AnthropicStream(wanted, Notes(wanted), None, by_tool=True)
        block = {"type": "tool_use", "id": "t", "name": "json_answer", "input": {}}
        piece = {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a":1}'}}
        half = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Here \\ud83d"}}'
        start = {"type": "content_block_start", "index": 1, "content_block": block}
        assert feed(reader, [half, start, piece, STOP]) == '{"a":1}'
        assert reader.answer().text == '{"a":1}'
