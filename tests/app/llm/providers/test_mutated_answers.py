"""Any field of a good answer may come as anything: the words survive, or the failure is typed and another target is tried.

The money stays between nothing and the cap: a figure that is odd costs itself alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.errors import ProviderError
from app.domain.usage import TokenUsage
from app.llm.messages import ContentDelta, ModelCall, TextDelta
from app.llm.providers.answers import READING_ERRORS, WholeAnswer
from app.llm.providers.anthropic import response as anthropic_response
from app.llm.providers.anthropic.stream import AnthropicStream
from app.llm.providers.openai import response as openai_response
from app.llm.providers.openai.stream import OpenAIStream
from app.llm.providers.stream_reader import StreamReader
from app.llm.providers.unsupported import Notes
from app.llm.providers.usage_mapping import salvaged_usage
from tests.app.llm.calls import call
from tests.integration.payload_mutations import (
    ANTHROPIC_EVENTS,
    ANTHROPIC_WHOLE,
    ODD_VALUES,
    OPENAI_EVENTS,
    OPENAI_WHOLE,
    TEXT,
    Path,
    changed,
    encode,
    paths,
)

CAP = 4096
CALL = call("some-model", max_output_tokens=CAP)
WORDS = {"choices", "message", "delta", "content", "text", "content_block", "refusal"}
"""What holds the words of an answer: an odd value there may cost them."""
SHAPE = {"type", "index", "finish_reason", "stop_reason"}
"""What says how they are to be read: without it the answer may fail, but it never loses a word in silence."""


@dataclass(frozen=True)
class Outcome:
    """`failure` is None for a reader that could not make anything of the answer."""

    answer: WholeAnswer | None
    usage: TokenUsage | None
    failure: ProviderError | None = None
    shown: str = ""


def read_whole(read: Any, body: object) -> Outcome:
    raw = encode(body)
    try:
        answer = read.read_answer(raw, CALL, Notes(CALL))
        return Outcome(answer, answer.usage)
    except READING_ERRORS:
        return Outcome(None, salvaged_usage(raw, CALL, 1.0, read.read_billed))
    except ProviderError as failure:
        return Outcome(None, failure.usage, failure)


def read_stream(make: Callable[[ModelCall, Notes, str | None], StreamReader], events: Sequence[object]) -> Outcome:
    reader, parts = make(CALL, Notes(CALL), None), list[ContentDelta]()
    failure = None
    try:
        for event in events:
            parts += reader.read(encode(event))
            if reader.stopped:
                break
        if reader.complete:
            answer = reader.answer()
            return Outcome(answer, answer.usage, None, _text(parts))
    except READING_ERRORS:
        pass
    except ProviderError as error:
        failure = error
    return Outcome(None, reader.usage(), failure, _text(parts))


def _text(parts: Sequence[ContentDelta]) -> str:
    return "".join(part.text for part in parts if isinstance(part, TextDelta))


def check(outcome: Outcome, changed_at: Sequence[Path], good: TokenUsage) -> None:
    """What holds whatever was changed, and what holds if only side fields were."""
    touched = set[str | int]().union(*changed_at)
    if outcome.failure is not None:
        assert not outcome.failure.final
    if outcome.usage is not None:
        assert outcome.usage.total_tokens > 0
        assert outcome.usage.output_tokens < CAP
        assert outcome.usage.input_tokens < 100_000
        if "usage" not in touched and outcome.answer is not None and not touched & {"type", "message"}:
            assert outcome.usage == good
    if outcome.answer is not None:
        assert outcome.answer.usage.output_tokens > 0 or not outcome.answer.text
        if not any(path[-1] in WORDS or isinstance(path[-1], int) for path in changed_at):
            assert outcome.answer.text == TEXT
    elif not touched & (WORDS | SHAPE | {"error"}):
        raise AssertionError(f"an odd side field cost the answer: {changed_at}")


def places(value: object) -> st.SearchStrategy[list[tuple[Path, object]]]:
    found = list(paths(value))
    if not found:
        return st.just([])
    one = st.tuples(st.sampled_from(found), st.sampled_from(ODD_VALUES))
    return st.lists(one, min_size=1, max_size=3)


def apply(value: Any, changes: Sequence[tuple[Path, object]]) -> tuple[Any, list[Path]]:
    """Those that still have a place after the others."""
    applied: list[Path] = []
    for path, to in changes:
        if path in set(paths(value)):
            value = changed(value, path, to)
            applied.append(path)
    return value, applied


@pytest.mark.parametrize(
    ("read", "whole"),
    [(openai_response, OPENAI_WHOLE), (anthropic_response, ANTHROPIC_WHOLE)],
    ids=["openai", "anthropic"],
)
class TestAWholeAnswer:
    def test_survives_any_odd_field(self, read: Any, whole: Any) -> None:
        good = read_whole(read, whole)
        assert good.usage is not None
        for path in paths(whole):
            for value in ODD_VALUES:
                check(read_whole(read, changed(whole, path, value)), [path], good.usage)

    @given(data=st.data())
    @settings(max_examples=150, deadline=None)
    def test_survives_several_odd_fields(self, read: Any, whole: Any, data: st.DataObject) -> None:
        good = read_whole(read, whole)
        assert good.usage is not None
        body, applied = apply(whole, data.draw(places(whole)))
        check(read_whole(read, body), applied, good.usage)


@pytest.mark.parametrize(
    ("make", "events"),
    [(OpenAIStream, OPENAI_EVENTS), (AnthropicStream, ANTHROPIC_EVENTS)],
    ids=["openai", "anthropic"],
)
class TestAStreamedAnswer:
    def test_survives_any_odd_field_of_any_event(self, make: Any, events: Sequence[Any]) -> None:
        good = read_stream(make, events)
        assert good.usage is not None
        for number, event in enumerate(events):
            for path in paths(event):
                for value in ODD_VALUES:
                    odd = [*events[:number], changed(event, path, value), *events[number + 1 :]]
                    outcome = read_stream(make, odd)
                    check(outcome, [path], good.usage)
                    self._shows_what_it_answers(outcome)

    @given(data=st.data())
    @settings(max_examples=150, deadline=None)
    def test_survives_several_odd_fields_in_two_events(self, make: Any, events: Sequence[Any], data: st.DataObject) -> None:
        good = read_stream(make, events)
        assert good.usage is not None
        odd, applied = list(events), list[Path]()
        for _ in range(2):
            number = data.draw(st.integers(0, len(events) - 1))
            odd[number], some = apply(odd[number], data.draw(places(odd[number])))
            applied += some
        outcome = read_stream(make, odd)
        check(outcome, applied, good.usage)
        self._shows_what_it_answers(outcome)

    def _shows_what_it_answers(self, outcome: Outcome) -> None:
        if outcome.answer is not None:
            assert outcome.shown == (outcome.answer.text or "")
