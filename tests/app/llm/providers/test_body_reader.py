"""Bodies with status 200 as they are read as a whole: what is almost JSON, or another form than was asked for, is an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from app.domain.errors import FailureKind, ProviderError
from app.domain.usage import TokenUsage
from app.llm.messages import FinishReason
from app.llm.providers.adapter import Adapter
from app.llm.providers.answers import BILLED_WITHOUT_WORDS, READING_ERRORS, WholeAnswer
from app.llm.providers.body_reader import BodyReader
from app.llm.providers.openai.content import ODD_FIELD
from app.llm.providers.unsupported import Notes
from app.llm.providers.wire_text import REPAIRED
from app.settings import ProviderKindName
from tests.app.llm.calls import ANTHROPIC, COMPATIBLE, adapter, call
from tests.integration.payload_mutations import (
    ANTHROPIC_EVENTS,
    ANTHROPIC_WHOLE,
    OPENAI_EVENTS,
    OPENAI_WHOLE,
    TEXT,
    encode,
    encode_events,
)

CAP = 4096
CALL = call("some-model", max_output_tokens=CAP)
GOOD: dict[ProviderKindName, Any] = {ANTHROPIC: ANTHROPIC_WHOLE, COMPATIBLE: OPENAI_WHOLE}
EVENTS: dict[ProviderKindName, list[Any]] = {ANTHROPIC: ANTHROPIC_EVENTS, COMPATIBLE: OPENAI_EVENTS}
DEEP = b"[" * 60_000 + b"]" * 60_000
TEXT_BYTES = TEXT.encode()


@pytest.fixture(params=[ANTHROPIC, COMPATIBLE], ids=["anthropic", "openai"])
def kind(request: pytest.FixtureRequest) -> ProviderKindName:
    chosen: ProviderKindName = request.param
    return chosen


@pytest.fixture
def protocol(kind: ProviderKindName) -> Adapter:
    """It sends nothing."""
    return adapter(kind, "http://127.0.0.1:9")


def read(protocol: Adapter, raw: bytes) -> tuple[WholeAnswer, list[str]]:
    notes = Notes(CALL)
    return BodyReader(protocol).read(raw, CALL, notes), notes.texts


def cost(protocol: Adapter, raw: bytes, *, is_cut: bool = False) -> TokenUsage | None:
    return BodyReader(protocol).cost(raw, CALL, 10.0, is_cut=is_cut)


def almost_json(good: bytes) -> Iterator[tuple[str, bytes]]:
    """What a server makes of a good body."""
    inner, text = good[:-1], TEXT_BYTES
    yield "not a number", inner + b',"x":NaN}'
    yield "infinite", inner + b',"x":[Infinity,-Infinity]}'
    yield "too large a number", inner + b',"x":[1e400,-1e400]}'
    yield "too long a number", inner + b',"x":' + b"9" * 6000 + b"}"
    yield "a side field too deep", inner + b',"x":' + DEEP + b"}"
    yield "objects too deep", inner + b',"x":' + b'{"a":' * 60_000 + b"1" + b"}" * 60_000 + b"}"
    yield "a line break in a text", inner + b',"x":"a\nb\tc"}'
    yield "a control character in a text", inner + b',"x":"a\x01b"}'
    yield "an escape that is none", inner + b',"x":"\\d \\( \\u12"}'
    yield "bytes that are no UTF-8", inner + b',"x":"\xff\xfe"}'
    yield "half of a pair", inner + b',"x":"\\ud800"}'
    yield "a NUL after it", good + b"\n\0"
    yield "words after it", good + b"\ngarbage"
    yield "a brace after it", good + b"}"
    yield "a comma too many", inner + b",}"
    yield "an anti-hijacking prefix", b")]}',\n" + good
    yield "comments before it", b": PROCESSING\n\n" * 20 + good
    yield "a list around it", b"[" + good + b"]"
    yield "a text around it", encode(good.decode())
    yield "UTF-16", good.decode().encode("utf-16")
    yield "UTF-16 without a mark", good.decode().encode("utf-16-be")
    yield "UTF-32", good.decode().encode("utf-32")
    yield "a mark", b"\xef\xbb\xbf" + good
    yield "twice", good + b"\n" + good
    yield "twice on one line", good + good
    yield "another after it", good + b"\n" + good.replace(text, b"Something else")
    yield "as one event", b"data: " + good + b"\n\n"
    yield "as one event of many lines", b"data: " + good.replace(b",", b",\ndata: ") + b"\n\ndata: [DONE]\n\n"


NAMES = [name for name, _ in almost_json(b"{}")]


class TestABodyThatIsAlmostJson:
    @pytest.mark.parametrize("name", NAMES)
    def test_is_the_answer_at_its_figures(self, protocol: Adapter, kind: ProviderKindName, name: str) -> None:
        answer, notes = read(protocol, dict(almost_json(encode(GOOD[kind])))[name])

        assert (answer.text, answer.finish_reason) == (TEXT, FinishReason.STOP)
        assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.confirmed) == (1000, 500, True)
        assert set(notes) <= {REPAIRED}

    def test_says_so(self, protocol: Adapter, kind: ProviderKindName) -> None:
        assert read(protocol, encode(GOOD[kind]))[1] == []
        assert read(protocol, encode(GOOD[kind])[:-1] + b',"x":NaN}')[1] == [REPAIRED]

    def test_keeps_a_line_break_and_loses_no_letter_of_its_text(self, protocol: Adapter, kind: ProviderKindName) -> None:
        raw = encode(GOOD[kind]).replace(TEXT_BYTES, b"Good\nday \\d")

        assert read(protocol, raw)[0].text == "Good\nday \\d"

    @pytest.mark.parametrize("missing", [1, 2, 30, 300])
    def test_is_never_made_whole_if_it_is_cut(self, protocol: Adapter, kind: ProviderKindName, missing: int) -> None:
        raw = encode(GOOD[kind])[:-missing]

        with pytest.raises(READING_ERRORS):
            read(protocol, raw)
        for is_cut in (False, True):
            usage = cost(protocol, raw, is_cut=is_cut)
            assert usage is not None
            assert 0 < usage.total_tokens <= 1500


class TestABodyOfEvents:
    def lines(self, kind: ProviderKindName) -> bytes:
        return b"\n".join(map(encode, EVENTS[kind]))

    def test_or_of_one_event_a_line_is_the_answer(self, protocol: Adapter, kind: ProviderKindName) -> None:
        for raw in (encode_events(EVENTS[kind], done=True), self.lines(kind), self.lines(kind).replace(b"\n", b"\r\n\r\n")):
            answer, _ = read(protocol, raw)
            assert (answer.text, answer.usage.output_tokens, answer.usage.confirmed) == (TEXT, 500, True)

    @pytest.mark.parametrize("odd", [b"\n\0", b"\ngarbage", b"\n]", b"\n\n: bye"])
    def test_with_another_line_is_never_only_its_first_event(self, protocol: Adapter, kind: ProviderKindName, odd: bytes) -> None:
        assert read(protocol, self.lines(kind) + odd)[0].text == TEXT

    def test_without_line_ends_is_never_only_its_first_event(self, protocol: Adapter, kind: ProviderKindName) -> None:
        events = EVENTS[kind] if kind is ANTHROPIC else EVENTS[kind][1:]
        with pytest.raises(READING_ERRORS):
            read(protocol, b"".join(map(encode, events)))

    def test_is_no_object_that_is_written_with_line_ends(self, protocol: Adapter, kind: ProviderKindName) -> None:
        raw = json.dumps(GOOD[kind], indent=0).encode()
        for body in (raw, raw[:-1] + b',"x":NaN}'):
            assert read(protocol, body)[0].text == TEXT

    def test_that_is_cut_costs_what_came_and_no_figure_of_its_start_is_confirmed(
        self, protocol: Adapter, kind: ProviderKindName
    ) -> None:
        for number in range(1, len(EVENTS[kind]) - 2):
            for raw in (encode_events(EVENTS[kind][:number], done=False), encode_events(EVENTS[kind], done=False)[:-200]):
                usage = cost(protocol, raw, is_cut=True)
                assert usage is not None
                assert (usage.input_tokens > 0, usage.output_tokens < 500, usage.confirmed) == (True, True, False)

    @pytest.mark.parametrize("figures", [False, True])
    def test_that_ends_in_an_error_costs_what_came(self, protocol: Adapter, kind: ProviderKindName, *, figures: bool) -> None:
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "no"}}
        events = [each for each in EVENTS[kind] if figures or each.get("usage") is None]
        cut = 6 if kind is ANTHROPIC else 4
        with pytest.raises(ProviderError) as caught:
            read(protocol, encode_events([*events[:cut], error], done=False))
        usage = caught.value.usage
        assert caught.value.kind is FailureKind.OVERLOADED
        assert usage is not None
        assert (usage.input_tokens > 0, usage.output_tokens) == (True, 5)

    @pytest.mark.parametrize("number", [0, 1])
    def test_that_begins_with_an_error_costs_nothing(self, protocol: Adapter, kind: ProviderKindName, number: int) -> None:
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "no"}}
        with pytest.raises(ProviderError) as caught:
            read(protocol, encode_events([*EVENTS[kind][:number], error], done=False))
        assert caught.value.usage is None


class TestABodyThatIsNoAnswer:
    @pytest.mark.parametrize("is_cut", [False, True])
    @pytest.mark.parametrize(
        "raw", [b"<html>{a}</html>", b"\xef\xbb\xbf <!DOCTYPE html>", b"<p>R\xe9ussi", b"upstream error", b"null", b"[]", b"7"]
    )
    def test_costs_nothing(self, protocol: Adapter, raw: bytes, *, is_cut: bool) -> None:
        with pytest.raises(READING_ERRORS):
            read(protocol, raw)
        assert cost(protocol, raw, is_cut=is_cut) is None

    def test_costs_its_input_if_it_broke_off_before_its_first_byte(self, protocol: Adapter) -> None:
        usage = cost(protocol, b"", is_cut=True)

        assert usage is not None
        assert (usage.input_tokens > 0, usage.output_tokens, usage.confirmed) == (True, 0, False)
        assert cost(protocol, b"") is None

    def test_costs_what_came_if_it_is_no_text_at_all(self, protocol: Adapter) -> None:
        usage = cost(protocol, b"\x1f\x8b\x08" + b"\xff\x00" * 200)

        assert usage is not None
        assert usage.output_tokens > 0

    @pytest.mark.parametrize("error", [{"message": "no"}, "no", {"message": "no", "usage": None}])
    def test_costs_the_figures_beside_an_error(self, protocol: Adapter, kind: ProviderKindName, error: object) -> None:
        usages: list[object] = [GOOD[kind]["usage"], [GOOD[kind]["usage"]], {"total_tokens": 1500}]
        for usage in usages:
            for body in ({"error": error, "usage": usage}, {"error": {"message": "no", "usage": usage}}):
                with pytest.raises(ProviderError) as caught:
                    read(protocol, encode(body))
                assert caught.value.usage is not None
                assert caught.value.usage.total_tokens == 1500


class TestAnAnswerWithoutWords:
    def empty(self, kind: ProviderKindName, output: int) -> bytes:
        body = encode(GOOD[kind]).replace(TEXT_BYTES, b"").replace(b'"I greet."', b"null")
        return body.replace(b":500", b":%d" % output).replace(b":1500", b":%d" % (1000 + output)).replace(b":50}", b":0}")

    def test_leaves_a_note_if_it_was_billed_for_some(self, protocol: Adapter, kind: ProviderKindName) -> None:
        answer, notes = read(protocol, self.empty(kind, 500))

        assert (answer.text, answer.usage.output_tokens) == ("", 500)
        assert notes == [BILLED_WITHOUT_WORDS]

    def test_leaves_none_if_it_was_not(self, protocol: Adapter, kind: ProviderKindName) -> None:
        assert read(protocol, self.empty(kind, 2))[1] == []


class TestAToolCallThatCallsNothing:
    @pytest.mark.parametrize("odd", [1, "odd", [], {"id": "a"}, {"id": "a", "function": {"arguments": "{}"}}, {"function": None}])
    def test_is_left_out_with_a_note_beside_a_text(self, odd: object) -> None:
        protocol = adapter(COMPATIBLE, "http://127.0.0.1:9")
        named = {"id": "b", "function": {"name": "weather", "arguments": "{}"}}
        message = {"content": TEXT, "tool_calls": [odd, named]}
        answer, notes = read(protocol, encode({"choices": [{"message": message, "finish_reason": "stop"}]}))

        assert (answer.text, [made.name for made in answer.tool_calls], notes) == (TEXT, ["weather"], [ODD_FIELD])
        with pytest.raises(READING_ERRORS):
            read(protocol, encode({"choices": [{"message": {"tool_calls": [odd]}, "finish_reason": "stop"}]}))
