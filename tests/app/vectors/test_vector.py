"""Vectors as bytes and base64, and which of them a collection can take."""

from __future__ import annotations

import base64
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.vectors.store import Distance
from app.vectors.vector import fault_of, vector_from_base64, vector_from_bytes, vector_of, vector_to_bytes

FLOATS = st.lists(st.floats(width=32, allow_nan=False), max_size=8)


class TestBytes:
    @given(FLOATS)
    def test_bytes_are_little_endian_floats_and_come_back(self, numbers: list[float]) -> None:
        packed = vector_to_bytes(vector_of(numbers))
        assert packed == struct.pack(f"<{len(numbers)}f", *numbers)
        assert list(vector_from_bytes(packed)) == numbers
        assert list(vector_from_base64(base64.b64encode(packed).decode())) == numbers

    @pytest.mark.parametrize("text", ["é", "====", "AAA", "AAAA", "AAAAAA ==", "AAAAAA==\n"])
    def test_other_text_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="not"):
            vector_from_base64(text)


class TestFaults:
    @pytest.mark.parametrize(
        ("numbers", "distance", "fault"),
        [
            ([1.0, 0.0], Distance.COSINE, None),
            ([1.0], Distance.COSINE, "has 1 numbers"),
            ([0.0, 0.0], Distance.COSINE, "only zeros"),
            ([0.0, 0.0], Distance.DOT, None),
            ([float("nan"), 0.0], Distance.DOT, "not finite"),
            ([3e38, 3e38], Distance.EUCLIDEAN, None),
            ([1e39, 0.0], Distance.EUCLIDEAN, "not finite"),
            ([float("inf"), float("-inf")], Distance.EUCLIDEAN, "not finite"),
        ],
    )
    def test_what_a_collection_of_two_dimensions_takes(self, numbers: list[float], distance: Distance, fault: str | None) -> None:
        found = fault_of(vector_of(numbers), 2, distance)
        assert found is None if fault is None else fault in (found or "")


class TestScores:
    @pytest.mark.parametrize(
        ("distance", "given", "score"),
        [
            (Distance.COSINE, 0.25, 0.75),
            (Distance.COSINE, 1.5, 0.0),
            (Distance.COSINE, -1e-9, 1.0),
            (Distance.EUCLIDEAN, 3.0, 0.25),
            (Distance.DOT, -2.5, 2.5),
        ],
    )
    def test_higher_is_nearer(self, distance: Distance, given: float, score: float) -> None:
        assert distance.score_of_distance(given) == score
