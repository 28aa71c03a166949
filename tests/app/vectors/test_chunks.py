from __future__ import annotations

import pydoc_data.topics
import re
from itertools import pairwise
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.costs.estimate import Estimator
from app.vectors.chunks import MIN_CHUNK_TOKENS, Chunk, CountTokens, cut

REFERENCE = "\n\n".join(str(topic) for topic in pydoc_data.topics.topics.values())
_estimator = Estimator()


def o200k(text: str) -> int:
    return _estimator.count_now([text])


def characters(text: str) -> int:
    return len(text)


COUNTS = st.sampled_from([o200k, characters])
PIECES = st.one_of(
    st.sampled_from(
        [
            "One two three. ",
            "Is it so? ",
            "«Yes.» ",
            "\n",
            "\n\n",
            " ",
            "\t\n \n",
            "...",
            "这是一句话。",
            "x" * 50,
            "🙂" * 9,
            '."',
        ]
    ),
    st.text(max_size=30),
)
TEXTS = st.lists(PIECES, max_size=60).map("".join)


@given(TEXTS, COUNTS, st.integers(MIN_CHUNK_TOKENS, 80), st.integers(0, 15))
def test_nothing_is_lost_and_no_chunk_is_too_long(text: str, count: CountTokens, max_tokens: int, overlap: int) -> None:
    chunks = cut(text, count, max_tokens, overlap)

    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert all(chunk.text == text[chunk.start : chunk.end] for chunk in chunks)
    assert all(count(chunk.text) <= max_tokens for chunk in chunks)
    covered = {at for chunk in chunks for at in range(chunk.start, chunk.end)}
    assert all(at in covered or character.isspace() for at, character in enumerate(text))


@given(TEXTS, COUNTS, st.integers(MIN_CHUNK_TOKENS, 80), st.integers(0, 15))
def test_every_chunk_goes_further_and_repeats_no_more_than_the_overlap(
    text: str, count: CountTokens, max_tokens: int, overlap: int
) -> None:
    chunks = cut(text, count, max_tokens, overlap)

    for before, after in pairwise(chunks):
        assert before.start < after.start
        assert before.end < after.end
        assert not text[min(before.end, after.start) : max(before.end, after.start)].strip() or after.start < before.end
    if count is characters:
        assert all(before.end - after.start <= overlap for before, after in pairwise(chunks))


@given(TEXTS, COUNTS, st.integers(MIN_CHUNK_TOKENS, 80))
def test_a_text_that_fits_is_one_chunk_as_it_is(text: str, count: CountTokens, max_tokens: int) -> None:
    chunks = cut(text, count, max_tokens)

    if not text.strip():
        assert chunks == []
    elif count(text) <= max_tokens:
        assert chunks == [Chunk(0, 0, len(text), text)]
    else:
        assert all(chunk.text.strip() == chunk.text for chunk in chunks)


def test_cuts_fall_between_sentences_and_the_overlap_is_whole_sentences() -> None:
    text = " ".join(f"This is sentence number {number}." for number in range(20))

    chunks = cut(text, o200k, 30, 10)

    assert all(re.fullmatch(r"This is .*\.", chunk.text) for chunk in chunks)
    assert all(text[after.start : before.end].count(".") == 1 for before, after in pairwise(chunks))


def test_a_chunk_that_is_half_full_ends_with_its_paragraph() -> None:
    paragraph = "A short sentence here. Another short sentence follows."

    chunks = cut("\n\n".join([paragraph] * 3), o200k, 16)

    assert [chunk.text for chunk in chunks] == [paragraph] * 3


def test_only_a_sentence_that_is_too_long_is_cut_at_lines_and_words() -> None:
    chunks = cut("Short one. " + "word " * 40 + "\n" + "next " * 10 + "end.", o200k, 20)

    assert chunks[0].text.startswith("Short one. word")
    assert all(set(chunk.text.split()) <= {"Short", "one.", "word", "next", "end."} for chunk in chunks)


@pytest.mark.parametrize("text", ["." * 300_000, "\n" * 300_000 + "a", '"' * 300_000 + " b", "a." * 150_000, "。" * 200_000])
def test_a_hostile_text_takes_no_more_than_linear_time(text: str) -> None:
    began = perf_counter()

    cut(text, o200k, 512, 64)

    assert perf_counter() - began < 10


def test_a_large_reference_is_cut_into_chunks_that_are_nearly_full() -> None:
    chunks = cut(REFERENCE, o200k, 256, 32)

    sizes = [o200k(chunk.text) for chunk in chunks]
    assert max(sizes) <= 256
    assert sum(sizes) / len(sizes) > 128
