from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.vectors.typed_metadata import from_sortable, plain_metadata, sortable, typed_metadata

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(NUMBERS, NUMBERS)
def test_sortable_numbers_have_the_order_of_the_floats_and_64_bits(one: float, other: float) -> None:
    assert (sortable(one) < sortable(other)) == (one < other)
    assert (sortable(one) == sortable(other)) == (one == other)
    assert -(2**63) <= sortable(one) < 2**63
    assert from_sortable(sortable(one)) == one


@given(st.dictionaries(st.text(max_size=3), st.one_of(NUMBERS, st.booleans(), st.text(max_size=8))))
def test_metadata_comes_back(metadata: dict[str, str | bool | float]) -> None:
    assert plain_metadata(typed_metadata(metadata)) == metadata
    assert plain_metadata(typed_metadata(metadata, sortable), from_sortable) == metadata
