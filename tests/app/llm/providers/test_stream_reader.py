"""Streams as other servers send them: an answer is finished only with all of its words, and with its end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import FailureKind, ProviderError
from app.llm.messages import FinishReason
from app.llm.providers.anthropic.stream import AnthropicStream
from app.llm.providers.openai.stream import OpenAIStream
from app.llm.providers.sse import SseReader
from app.llm.providers.stream_reader import LATE_WORDS, ODD_EVENT, StreamReader
from app.llm.providers.unsupported import Notes
from app.llm.providers.wire_text import Malformed
from tests.app.llm.providers.stream_events import CALL, DONE, LAST, STOP, USAGE, chunk, feed, state, whole
from tests.integration.payload_mutations import ANTHROPIC_EVENTS, OPENAI_EVENTS, TEXT, encode

DEEP = b"[" * 60_000 + b"]" * 60_000
PROTOCOLS = [(OpenAIStream, OPENAI_EVENTS, DONE), (AnthropicStream, ANTHROPIC_EVENTS, {"type": "message_stop"})]
both = pytest.mark.parametrize(("make", "events", "terminal"), PROTOCOLS, ids=["openai", "anthropic"])


class TestAnEventThatCannotBeRead:
    @pytest.mark.parametrize(
        "odd",
        [
            b"null",
            b"7",
            b"[]",
            b"[null]",
            b"ping",
            b'"ping"',
            b"{}",
            b'{"x":NaN,"y":-Infinity}',
            b'{"x":' + DEEP + b"}",
            DEEP,
            b'{"x":"\xff"}',
            b'{"object":"ping"}',
        ],
        ids=range(12),
    )
    @both
    def test_is_left_out_if_it_cannot_hold_words(self, make: Any, events: list[Any], terminal: object, odd: bytes) -> None:
        for place in range(len(events)):
            answer, _ = whole(make, [*events[:place], odd, *events[place:], terminal])
            assert (answer.text, answer.usage.output_tokens) == (TEXT, 500)

    @pytest.mark.parametrize("odd", [b"null", b"[null]", b"ping", b'{"x":' + DEEP + b"}"], ids=range(4))
    @both
    def test_leaves_a_note(self, make: Any, events: list[Any], terminal: object, odd: bytes) -> None:
        _, notes = whole(make, [events[0], odd, *events[1:], terminal])
        assert notes == [ODD_EVENT]

    @pytest.mark.parametrize(
        "odd",
        [
            b'{"choices":[{"delta":{"content":"lost"',
            b'{"type":"content_block_delta","delta":{"type":"text_delta","text":"lost',
            b'{"choices":[{"index":0,"delta":{"content":"lost"},"x":' + DEEP + b"}]}",
            b'{"type":"content_block_delta","delta":{"text":"lost"},"x":' + DEEP + b"}",
            b'[{"choices":[{"delta":{"content":"lost"}}]}]',
            b'{"cho',
            b"{",
        ],
        ids=range(7),
    )
    @both
    def test_fails_if_it_may_have_held_words(self, make: Any, events: list[Any], terminal: object, odd: bytes) -> None:
        for place in (1, 3, 4):
            with pytest.raises(Malformed):
                whole(make, [*events[:place], odd, *events[place:], terminal])

    @pytest.mark.parametrize("odd", [None, [None], [7], 7, True, {}, []])
    def test_may_have_odd_choices_without_words(self, odd: object) -> None:
        answer, _ = whole(OpenAIStream, [OPENAI_EVENTS[0], {"choices": odd}, *OPENAI_EVENTS[1:]])
        assert answer.text == TEXT

    @pytest.mark.parametrize("odd", ["lost", ["lost"], [["lost"]], [{"delta": "a"}, "lost"], [{"delta": ["lost"]}]])
    def test_fails_if_its_choices_may_be_words(self, odd: object) -> None:
        with pytest.raises(Malformed):
            whole(OpenAIStream, [OPENAI_EVENTS[0], {"choices": odd}, *OPENAI_EVENTS[1:]])

    @pytest.mark.parametrize("odd", [None, 0, False, [], {}, ""])
    def test_may_have_an_odd_delta_without_words(self, odd: object) -> None:
        answer, _ = whole(OpenAIStream, [OPENAI_EVENTS[0], {"choices": [{"delta": odd}]}, *OPENAI_EVENTS[1:]])
        assert answer.text == TEXT
        odd_event = {"type": "content_block_delta", "index": 0, "delta": odd}
        answer, _ = whole(AnthropicStream, [*ANTHROPIC_EVENTS[:3], odd_event, *ANTHROPIC_EVENTS[3:]])
        assert answer.text == TEXT

    def test_has_its_words_though_a_number_is_none(self) -> None:
        odd = b'{"choices":[{"index":0,"delta":{"content":"Good day"},"logprobs":NaN,"finish_reason":null}],"usage":null}'
        answer, notes = whole(OpenAIStream, [odd, chunk(finish="stop"), LAST])
        assert (answer.text, notes) == ("Good day", [])
        odd = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Good day"},"score":Infinity}'
        answer, notes = whole(AnthropicStream, [ANTHROPIC_EVENTS[0], odd, STOP])
        assert (answer.text, notes) == ("Good day", [])


class TestAnErrorInAStream:
    @pytest.mark.parametrize(
        ("lines", "kind"),
        [
            (b'event: error\ndata: {"message":"is overloaded"}', FailureKind.OVERLOADED),
            (b'event: error\ndata: {"type":"overloaded_error","message":"no"}', FailureKind.OVERLOADED),
            (b'event: error\ndata: {"error":{"message":"no","code":429}}', FailureKind.RATE_LIMITED),
            (b'event:error\ndata: {"code":503,"message":"no"}', FailureKind.OVERLOADED),
            (b"event: error\ndata: Rate limit exceeded", FailureKind.RATE_LIMITED),
            (b"data: Internal server error\nevent: error", FailureKind.SERVER_ERROR),
            (b"event: error\ndata:", FailureKind.SERVER_ERROR),
            (b"event: error\ndata: null", FailureKind.SERVER_ERROR),
            (b'error: {"code":503,"message":"no"}', FailureKind.OVERLOADED),
            (b"error: no", FailureKind.SERVER_ERROR),
            (b'data: {"error":{"message":"no","code":503}}', FailureKind.OVERLOADED),
            (b'data: [{"error":{"message":"no","code":503}}]', FailureKind.OVERLOADED),
            (b'data: {"code":503,"message":"no"}', FailureKind.OVERLOADED),
        ],
    )
    @both
    def test_is_found_and_typed(self, make: Any, events: list[Any], terminal: object, lines: bytes, kind: FailureKind) -> None:
        reader: StreamReader = make(CALL, Notes(CALL), None)
        feed(reader, events[:4])
        payloads = SseReader().feed(lines + b"\n\n")
        with pytest.raises(ProviderError) as caught:
            feed(reader, payloads)
        assert caught.value.kind is kind
        assert reader.usage().output_tokens > 0
        assert terminal

    def test_in_the_choice_says_what_it_is(self) -> None:
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error", "error": {"code": 429, "message": "no"}}
        with pytest.raises(ProviderError) as caught:
            whole(OpenAIStream, [chunk("Good"), {"choices": [choice]}])
        assert caught.value.kind is FailureKind.RATE_LIMITED


class TestAFinishReason:
    def test_in_every_chunk_is_no_end_while_text_still_comes(self) -> None:
        reader = OpenAIStream(CALL, Notes(CALL), None)
        for text in ("Good ", "day", " to you"):
            assert feed(reader, [chunk(text, "stop")]) == text
            assert state(reader) == (True, False, False)
        feed(reader, [chunk("", "stop")])
        assert (reader.complete, reader.certain) == (True, False)
        feed(reader, [LAST, DONE])
        assert (reader.certain, reader.stopped, reader.answer().text) == (True, True, "Good day to you")

    def test_in_every_chunk_with_usage_is_no_end_either(self) -> None:
        reader = OpenAIStream(CALL, Notes(CALL), None)
        for text in ("Good ", "day"):
            feed(reader, [{**chunk(text, "stop"), "usage": USAGE}])
            assert not reader.stopped
        feed(reader, [DONE])
        assert (reader.stopped, reader.answer().text) == (True, "Good day")

    def test_of_a_chunk_without_words_is_certain(self) -> None:
        reader = OpenAIStream(CALL, Notes(CALL), None)
        feed(reader, [chunk("Good day"), chunk(finish="stop")])
        assert state(reader) == (True, True, False)

    def test_before_any_word_is_not(self) -> None:
        reader = OpenAIStream(CALL, Notes(CALL), None)
        feed(reader, [chunk("", "stop", role="assistant")])
        assert (reader.complete, reader.certain) == (True, False)

    @pytest.mark.parametrize("tail", [[], [chunk(" more"), chunk("")]])
    def test_that_words_follow_has_not_ended_the_answer(self, tail: list[Any]) -> None:
        reader = OpenAIStream(CALL, Notes(CALL), None)
        feed(reader, [chunk("Good"), chunk(finish="stop"), LAST, chunk(" day"), *tail])
        assert not reader.complete
        anthropic = AnthropicStream(CALL, Notes(CALL), None)
        feed(anthropic, [*ANTHROPIC_EVENTS[:4], STOP, *ANTHROPIC_EVENTS[4:6]])
        assert not anthropic.complete

    @pytest.mark.parametrize(
        ("words", "reason"),
        [
            (("stop", "stop"), FinishReason.STOP),
            (("length", "stop"), FinishReason.LENGTH),
            (("content_filter", "stop"), FinishReason.CONTENT_FILTER),
            (("stop", "length"), FinishReason.LENGTH),
        ],
    )
    def test_that_says_the_answer_is_not_whole_is_not_replaced_by_a_second_one(
        self, words: Sequence[str], reason: FinishReason
    ) -> None:
        answer, _ = whole(OpenAIStream, [chunk("Good day"), *(chunk(finish=word) for word in words), LAST, DONE])
        assert answer.finish_reason is reason

    def test_that_comes_in_the_stop_reason_of_a_later_message_delta(self) -> None:
        early = {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 1}}
        events = [*ANTHROPIC_EVENTS[:4], early, *ANTHROPIC_EVENTS[4:6], early, {"type": "message_delta", "delta": {}}, STOP]
        answer, _ = whole(AnthropicStream, events)
        assert (answer.text, answer.usage.output_tokens, answer.usage.confirmed) == (TEXT, 500, True)


class TestTheTerminalEvent:
    @both
    def test_is_not_missed_after_a_finish_reason(self, make: Any, events: list[Any], terminal: object) -> None:
        without = [each for each in events if each != terminal]
        reader: StreamReader = make(CALL, Notes(CALL), None)
        feed(reader, without)
        assert state(reader) == (True, True, False)
        assert reader.answer().text == TEXT

    @pytest.mark.parametrize("done", [b"[DONE]", b" [DONE] ", b'"[DONE]"', b"[done]"])
    def test_ends_a_stream_without_a_finish_reason(self, done: bytes) -> None:
        answer, _ = whole(OpenAIStream, [chunk("Good day"), done])
        assert answer.finish_reason is FinishReason.STOP

    def test_of_the_other_protocol_ends_only_an_answer_that_has_a_stop_reason(self) -> None:
        reader = AnthropicStream(CALL, Notes(CALL), None)
        feed(reader, [*ANTHROPIC_EVENTS[:5], DONE])
        assert not reader.complete
        feed(reader, [ANTHROPIC_EVENTS[5], STOP, DONE])
        assert reader.stopped

    @both
    def test_is_followed_by_no_words_of_the_answer(self, make: Any, events: list[Any], terminal: object) -> None:
        answer, notes = whole(make, [*events, terminal, events[3], b"junk", terminal])
        assert (answer.text, notes) == (TEXT, [LATE_WORDS])

    def test_may_be_followed_by_the_usage(self) -> None:
        reader = OpenAIStream(CALL, Notes(CALL), None)
        feed(reader, [chunk("Good day"), chunk(finish="stop"), DONE])
        assert state(reader) == (True, True, False)
        feed(reader, [LAST])
        assert state(reader) == (True, True, True)
        assert (reader.usage().output_tokens, reader.usage().confirmed) == (500, True)

    def test_before_any_word_ends_nothing(self) -> None:
        answer, _ = whole(OpenAIStream, [chunk(finish="stop"), DONE, chunk("Good day"), chunk(finish="stop"), DONE])
        assert answer.text == "Good day"


class TestHalvesOfACharacter:
    HIGH, LOW = b"\\ud83d", b"\\ude00"

    def openai(self, *pieces: bytes) -> list[object]:
        words = [b'{"choices":[{"index":0,"delta":{"content":"' + piece + b'"}}]}' for piece in pieces]
        return [*words, chunk(finish="stop"), LAST, DONE]

    def anthropic(self, *pieces: bytes) -> list[object]:
        head = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"'
        return [*ANTHROPIC_EVENTS[:3], *(head + piece + b'"}}' for piece in pieces), *ANTHROPIC_EVENTS[6:]]

    @pytest.mark.parametrize("make", [OpenAIStream, AnthropicStream])
    def test_in_two_pieces_are_joined(self, make: Any) -> None:
        write = self.openai if make is OpenAIStream else self.anthropic
        for pieces in (
            [b"a " + self.HIGH, self.LOW + b" b"],
            [b"a " + self.HIGH, b"", self.LOW + b" b"],
            [b"a ", self.HIGH, self.LOW, b" b"],
            [b"a " + self.HIGH + self.LOW + b" b"],
        ):
            assert whole(make, write(*pieces))[0].text == "a \U0001f600 b"

    @pytest.mark.parametrize("make", [OpenAIStream, AnthropicStream])
    def test_that_stay_alone_are_replaced(self, make: Any) -> None:
        write = self.openai if make is OpenAIStream else self.anthropic
        for pieces, text in (
            ([b"a " + self.HIGH, b"b"], "a \ufffdb"),
            ([b"a " + self.HIGH], "a \ufffd"),
            ([self.LOW + b"a"], "\ufffda"),
            ([self.HIGH + self.HIGH, self.LOW], "\ufffd\U0001f600"),
            ([b"a\xff\xc3b"], "a\ufffd\ufffdb"),
        ):
            assert whole(make, write(*pieces))[0].text == text

    def test_in_thoughts_and_names_are_no_failure(self) -> None:
        thought = b'{"model":"m\\ud83d","choices":[{"delta":{"reasoning_content":"hm \\ud83d"}}]}'
        answer, _ = whole(OpenAIStream, [thought, chunk("Good day"), chunk(finish="stop"), LAST])
        assert (answer.text, answer.model) == ("Good day", "m\ufffd")
        encode(answer.reasoning)


BODY = "".join(
    f"data: {encode(each).decode()}\n\n" for each in [chunk("Grüße "), chunk("\U0001f600 day"), chunk(finish="stop"), LAST]
)


@given(st.lists(st.integers(0, len(BODY.encode())), max_size=20), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_a_stream_is_the_same_however_it_is_cut(cuts: list[int], ending: str, mark: bool) -> None:  # noqa: FBT001
    body = (("\ufeff" if mark else "") + BODY.replace("\n", ending)).encode()
    edges = [0, *sorted(cuts), len(body)]
    events = SseReader()
    payloads = [each for start, end in pairwise(edges) for each in events.feed(body[start:end])] + events.flush()
    assert whole(OpenAIStream, payloads)[0].text == "Grüße \U0001f600 day"
