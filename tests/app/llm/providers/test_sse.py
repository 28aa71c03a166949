from __future__ import annotations

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

    def test_is_found_to_be_one_in_any_chunks(self) -> None:
        reader = StreamedBody()
        events = [event for byte in b"\n \ndata: {}\n\n" for event in reader.feed(bytes([byte]))]
        assert (events, reader.document) == ([b"{}"], b"")
