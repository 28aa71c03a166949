from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llm.providers.sse import MAX_EVENT_BYTES, EventTooLarge, SseReader, StreamedBody

STREAM = b': hello\nevent: a\ndata: {"n":1}\n\nid: 7\ndata:{"n":2}\nretry: 5\n\ndata: one\ndata: two\n\n\n\ndata: [DONE]\n\n'
PAYLOADS = [b'{"n":1}', b'{"n":2}', b"one\ntwo", b"[DONE]"]


def read(chunks: list[bytes]) -> list[bytes]:
    reader = SseReader()
    return [payload for chunk in chunks for payload in reader.feed(chunk)] + reader.flush()


class TestReading:
    @pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
    def test_takes_every_line_ending(self, ending: bytes) -> None:
        assert read([STREAM.replace(b"\n", ending)]) == PAYLOADS

    @given(st.lists(st.integers(0, len(STREAM)), max_size=20), st.sampled_from([b"\n", b"\r\n", b"\r"]))
    def test_does_not_depend_on_how_the_body_was_cut(self, cuts: list[int], ending: bytes) -> None:
        body = STREAM.replace(b"\n", ending)
        edges = [0, *sorted(cuts), len(body)]

        assert read([body[start:end] for start, end in pairwise(edges)]) == PAYLOADS

    def test_gives_an_event_as_soon_as_it_is_whole(self) -> None:
        reader = SseReader()

        assert reader.feed(b"data: a\n\ndata: b\n") == [b"a"]
        assert reader.feed(b"\n") == [b"b"]
        assert reader.flush() == []

    @pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
    def test_gives_an_event_at_once_whatever_its_line_ends_are(self, ending: bytes) -> None:
        reader = SseReader()

        assert reader.feed(b"data: a" + ending * 2) == [b"a"]
        assert reader.feed(b"data: b" + ending) == []
        assert reader.feed(b"" + ending) == [b"b"]

    def test_takes_a_line_end_in_two_halves_for_one(self) -> None:
        reader = SseReader()

        assert [reader.feed(piece) for piece in (b"data: a\r", b"", b"\n", b"data: b\r", b"\n\r", b"\n")] == [
            [],
            [],
            [],
            [],
            [b"a\nb"],
            [],
        ]

    @pytest.mark.parametrize(
        ("body", "payloads"),
        [
            (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
            (b"data:a\n\ndata:  b\n\ndata: c \n\n", [b"a", b" b", b"c "]),
            (b"data:\n\ndata\n\ndata: \n\ndata:\ndata:\n\ndata: a\n\n", [b"a"]),
            (b"data: a\ndata\ndata:\ndata: b\n\n", [b"a\n\n\nb"]),
            (b": comment\n:\n:: \n\ndata: a\n: comment\n\n", [b"a"]),
            (b"id: 1\nid\nid:\nretry: soon\nretry: 5\n\ndata: a\nid: 2\n\n", [b"a"]),
            (b"Data: no\ndata : no\n data: no\ndatabase: no\n\ndata: a\n\n", [b"a"]),
            (b"event: a\n\nevent: error\n\ndata: a\n\n", [b"a"]),
            (b"event: errors\ndata: a\n\n", [b"a"]),
            ("data: a\u2028b\x0b\x0c\x85\n\n".encode(), ["a\u2028b\x0b\x0c\x85".encode()]),
        ],
        ids=[
            "mark",
            "one space",
            "empty",
            "empty lines",
            "comments",
            "id and retry",
            "other fields",
            "names",
            "other name",
            "no ends",
        ],
    )
    def test_keeps_to_the_letter_of_the_standard(self, body: bytes, payloads: list[bytes]) -> None:
        assert read([body]) == read([bytes([byte]) for byte in body]) == payloads

    @pytest.mark.parametrize(
        ("data", "payload"),
        [
            (b'{"error":{"message":"no"}}', {"error": {"message": "no"}}),
            (b'{"type":"error","error":null}', {"type": "error", "error": None}),
            (b'{"message":"no"}', {"error": {"message": "no"}}),
            (b"no", {"error": "no"}),
            (b"n\xff", {"error": "n\ufffd"}),
            (b"", {"error": {"type": "error"}}),
            (b"[]", {"error": {"type": "error"}}),
        ],
    )
    def test_gives_an_event_named_error_as_an_object_with_an_error(self, data: bytes, payload: object) -> None:
        for body in (b"event: error\ndata: %b\n\n", b"data: %b\nevent:error\n\n", b"error: %b\n\n"):
            assert [json.loads(each) for each in read([body % data])] == [payload]

    def test_takes_a_last_event_without_its_empty_line(self) -> None:
        assert read([b"data: a\n\ndata: [DONE]"]) == [b"a", b"[DONE]"]


class TestAnEndlessEvent:
    @pytest.mark.parametrize("piece", [b"x" * 1024 * 1024, b"data: " + b"x" * 1024 * 1024 + b"\n"])
    def test_is_given_up(self, piece: bytes) -> None:
        reader = SseReader()

        with pytest.raises(EventTooLarge):
            list(map(reader.feed, [piece] * (2 + MAX_EVENT_BYTES // len(piece))))

    def test_is_not_what_many_small_ones_are(self) -> None:
        reader = SseReader()

        assert sum(len(reader.feed(b"data: " + b"x" * 1024 * 1024 + b"\n\n")) for _ in range(20)) == 20


class TestABodyThatIsNoStreamOfEvents:
    @pytest.mark.timeout(30)
    def test_takes_no_more_time_for_each_chunk_the_more_has_come(self) -> None:
        body = b' \n{"a": "' + b"x" * 1_500_000 + b'"}'
        reader = StreamedBody()
        for at in range(len(body)):
            assert reader.feed(body[at : at + 1]) == []
        assert reader.document == body

    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
    def test_is_found_to_be_one_in_any_chunks(self, mark: bytes) -> None:
        reader = StreamedBody()
        events = [event for byte in mark + b"\n \ndata: {}\n\n" for event in reader.feed(bytes([byte]))]
        assert (events, reader.document) == ([b"{}"], b"")

    @pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
    def test_is_an_object_also_after_a_byte_order_mark(self, size: int) -> None:
        reader, body = StreamedBody(), b'\xef\xbb\xbf {"a": 1}'
        for at in range(0, len(body), size):
            assert reader.feed(body[at : at + size]) == []
        assert reader.document == body

    @given(st.lists(st.integers(0, len(STREAM) + 3), max_size=20))
    def test_may_be_a_stream_with_a_byte_order_mark_in_any_pieces(self, cuts: list[int]) -> None:
        body = b"\xef\xbb\xbf" + STREAM[8:]
        reader = StreamedBody()
        edges = [0, *sorted(cuts), len(body)]
        assert [each for start, end in pairwise(edges) for each in reader.feed(body[start:end])] + reader.flush() == PAYLOADS
