"""What other servers put elsewhere in OpenAI's chunks: choices, words and usage."""

from __future__ import annotations

from typing import Any

import pytest

from app.llm.providers.openai.stream import OTHER_CHOICE, OpenAIStream
from app.llm.providers.unsupported import Notes
from app.llm.providers.wire_text import Malformed
from tests.app.llm.providers.stream_events import CALL, DONE, LAST, USAGE, chunk, feed, whole


class TestOtherChoices:
    def test_are_left_out_with_a_note(self) -> None:
        words = ["Good ", "day"]
        events = [each for word in words for each in (chunk(word), chunk("no", index=1), chunk("no", index=2))]
        ends = [chunk(finish="stop", index=index) for index in (2, 0, 1)]
        answer, notes = whole(OpenAIStream, [*events, *ends, LAST, DONE])
        assert (answer.text, notes) == ("Good day", [OTHER_CHOICE])

    def test_in_the_same_chunk_are_left_out_too(self) -> None:
        both_choices = {"choices": [*chunk("no", "stop", index=1)["choices"], *chunk("Good day", "stop")["choices"]]}
        answer, notes = whole(OpenAIStream, [both_choices, LAST, DONE])
        assert (answer.text, notes) == ("Good day", [OTHER_CHOICE])

    def test_end_nothing(self) -> None:
        reader = OpenAIStream(CALL, Notes(CALL), None)
        feed(reader, [chunk("Good"), chunk("no", "stop", index=1)])
        assert not reader.complete

    @pytest.mark.parametrize(
        "events",
        [
            [chunk("Good "), chunk("day", index=7), chunk(finish="stop"), LAST, DONE],
            [chunk("Good "), chunk("day", "stop", index=2), chunk(finish="stop"), LAST, DONE],
            [chunk("Good "), chunk("day", index=1), chunk("!", index=2), chunk(finish="stop", index=3), LAST, DONE],
            [chunk("Good "), chunk("day", "stop", index=1), LAST, DONE],
            [chunk("Good ", index=1), chunk("day"), chunk(finish="stop"), LAST, DONE],
        ],
        ids=["odd", "not in order", "a number for each chunk", "instead of the finish", "first"],
    )
    def test_that_may_be_this_one_make_the_answer_malformed(self, events: list[Any]) -> None:
        with pytest.raises(Malformed):
            whole(OpenAIStream, events)


class TestWordsInOtherPlaces:
    @pytest.mark.parametrize(
        "choice",
        [
            {"delta": {"content": [{"type": "text", "text": "Good"}, {"type": "text", "text": " day"}]}},
            {"delta": {"content": {"text": "Good day"}}},
            {"delta": "Good day"},
            {"message": {"content": "Good day"}},
            {"delta": {}, "message": {"content": "Good day"}},
            {"delta": {"role": "assistant", "content": ""}, "message": {"content": "Good day"}},
            {"delta": None, "message": {"content": [{"type": "text", "text": "Good day"}]}},
            {"message": "Good day"},
            {"text": "Good day"},
            {"delta": None, "text": "Good day"},
            {"delta": {}, "text": "Good day", "logprobs": 7},
        ],
        ids=range(11),
    )
    def test_are_read(self, choice: dict[str, Any]) -> None:
        answer, _ = whole(OpenAIStream, [{"choices": [{"index": 0, **choice}]}, chunk(finish="stop"), LAST])
        assert answer.text == "Good day"


class TestAMessageThatRepeatsWhatHasCome:
    def test_adds_only_what_is_new(self) -> None:
        snapshots = ["Good", "Good day", "Good day", "Good day to you"]
        events = [{"choices": [{"index": 0, "message": {"content": text}}]} for text in snapshots]
        assert whole(OpenAIStream, [*events, chunk(finish="stop"), LAST])[0].text == "Good day to you"

    def test_is_no_piece_beside_its_deltas(self) -> None:
        def both_of(piece: str, so_far: str, finish: str | None = None) -> object:
            message = {"role": "assistant", "content": so_far}
            return {"choices": [{"index": 0, "delta": {"content": piece}, "message": message, "finish_reason": finish}]}

        events = [both_of("Good", "Good"), both_of(" day", "Good day"), both_of("", "Good day", "stop")]
        answer, notes = whole(OpenAIStream, [*events, LAST, DONE])
        assert (answer.text, notes) == ("Good day", [])

    def test_adds_nothing_without_the_white_space_around_it(self) -> None:
        last = {"choices": [{"index": 0, "message": {"content": "Good day"}, "finish_reason": "stop"}]}
        answer, notes = whole(OpenAIStream, [chunk(" Good"), chunk(" day "), last, LAST])
        assert (answer.text, notes) == (" Good day ", [])

    @pytest.mark.parametrize("text", ["Good night", "to you", "Good"])
    def test_in_other_words_than_the_deltas_makes_the_answer_malformed(self, text: str) -> None:
        last = {"choices": [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}]}
        with pytest.raises(Malformed):
            whole(OpenAIStream, [chunk("Good"), chunk(" day"), last, LAST])

    @pytest.mark.parametrize("character", ["\\u0000", "\\ud83d\\ude00"])
    def test_adds_only_what_is_new_after_characters_that_are_replaced(self, character: str) -> None:
        snapshots = ["Good " + character, "Good " + character + " day"]
        events = [b'{"choices":[{"index":0,"message":{"content":"%b"}}]}' % text.encode() for text in snapshots]
        text = whole(OpenAIStream, [*events, chunk(finish="stop"), LAST])[0].text or ""
        assert text.replace("\ufffd", "?").replace("\U0001f600", "?") == "Good ? day"

    def test_may_be_pieces(self) -> None:
        events = [{"choices": [{"index": 0, "message": {"content": text}}]} for text in ("Good ", "day ", "to you")]
        assert whole(OpenAIStream, [*events, chunk(finish="stop"), LAST])[0].text == "Good day to you"

    def test_is_not_what_equal_deltas_are(self) -> None:
        answer, _ = whole(OpenAIStream, [chunk("ha"), chunk("ha"), chunk("haha"), chunk(finish="stop"), LAST])
        assert answer.text == "hahahaha"


class TestUsageInAStream:
    @pytest.mark.parametrize(
        "fields",
        [
            {"usage": USAGE},
            {"usage_metadata": {"promptTokenCount": 1000, "candidatesTokenCount": 500}},
            {"prompt_eval_count": 1000, "eval_count": 500},
            {"tokens_evaluated": 1000, "tokens_predicted": 500},
            {"timings": {"prompt_n": 1000, "predicted_n": 500}},
            {"x_groq": {"usage": USAGE}},
            {"meta": {"tokens": {"input_tokens": 1000, "output_tokens": 500}}},
            {"usage": [USAGE]},
        ],
        ids=range(8),
    )
    @pytest.mark.parametrize(
        "where", ["alone", "beside the finish", "in the choice", "in the delta", "in the message", "after done"]
    )
    def test_is_found_wherever_it_is(self, fields: dict[str, Any], where: str) -> None:
        end: dict[str, Any] = chunk(finish="stop")
        tail: list[object] = [DONE]
        if where == "alone":
            tail = [{"choices": [], **fields}, DONE]
        elif where == "after done":
            tail = [DONE, fields]
        elif where == "beside the finish":
            end |= fields
        elif where == "in the choice":
            end["choices"][0] |= fields
        else:
            end["choices"][0][where.removeprefix("in the ")] = {"role": "assistant", **fields}
        if "_count" in str(fields) or "tokens_" in str(fields):
            end = end if where in {"alone", "after done", "beside the finish"} else {**chunk(finish="stop"), **fields}
        answer, _ = whole(OpenAIStream, [chunk("Good day"), end, *tail])
        assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.confirmed) == (1000, 500, True)
