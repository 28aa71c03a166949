from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from app.vectors.fusion import fuse
from app.vectors.store import Hit

A, B, C, D = (UUID(int=number) for number in range(1, 5))
RANKINGS = st.lists(
    st.lists(st.sampled_from([UUID(int=number) for number in range(20)]), unique=True).map(
        lambda keys: [Hit(key, 1.0) for key in keys]
    ),
    max_size=3,
)


def ranking(*keys: UUID) -> list[Hit]:
    return [Hit(key, 1.0) for key in keys]


def test_what_both_rankings_have_comes_before_what_only_one_has() -> None:
    fused = fuse(ranking(A, B, C), ranking(D, C))

    assert [hit.key for hit in fused] == [C, A, D, B]
    assert fused[0].score == 1 / 63 + 1 / 62


def test_ties_are_ordered_by_key() -> None:
    assert [hit.key for hit in fuse(ranking(D, B), ranking(A, C))] == [A, D, B, C]


@given(RANKINGS)
def test_every_chunk_is_there_once_and_best_first(rankings: list[list[Hit]]) -> None:
    fused = fuse(*rankings)

    assert sorted(hit.key for hit in fused) == sorted({hit.key for ranked in rankings for hit in ranked})
    assert fused == sorted(fused, key=lambda hit: (-hit.score, hit.key))


@given(RANKINGS)
def test_one_ranking_keeps_its_order(rankings: list[list[Hit]]) -> None:
    for ranked in rankings:
        assert [hit.key for hit in fuse(ranked)] == [hit.key for hit in ranked]
