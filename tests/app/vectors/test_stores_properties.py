"""Every vector store filters as `matches` does, and keeps indexes apart, whatever callers write."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from app.vectors.filters import AllOf, AnyOf, FieldTest, Filter, MetadataOperator, NoneOf, Scalar, matches
from app.vectors.store import Distance, Index, IndexedChunk
from app.vectors.vector import vector_of
from tests.app.vectors.opened_stores import StoreKind, SyncStore, index_of, opened_sync

TEXTS = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=3),
    st.sampled_from(["prefix 1", "prefix 2", "prefix", "$and", "\U0010ffff", "￿", "' or true --"]),
)
NUMBERS = st.one_of(st.integers(-2, 2), st.sampled_from([2**53, -(2**53), 0.1, -0.0, 4503599627370495.5, 5e-324]))
FIELDS = st.sampled_from(["a", "$and", "it's", '"', "é", "n:a", "k:a", "#document", "chroma:document", "a.b"])
SCALARS: st.SearchStrategy[Scalar] = st.one_of(TEXTS, NUMBERS, st.booleans())
ORDERED = st.sampled_from([MetadataOperator.GT, MetadataOperator.GTE, MetadataOperator.LT, MetadataOperator.LTE])
TESTS = st.one_of(
    st.builds(FieldTest, FIELDS, st.sampled_from([MetadataOperator.EQ, MetadataOperator.NE]), SCALARS),
    st.builds(FieldTest, FIELDS, ORDERED, st.one_of(TEXTS, NUMBERS)),
    st.builds(FieldTest, FIELDS, st.just(MetadataOperator.IN), st.lists(TEXTS, min_size=1, max_size=3).map(tuple)),
    st.builds(FieldTest, FIELDS, st.just(MetadataOperator.IN), st.lists(NUMBERS, min_size=1, max_size=3).map(tuple)),
    st.builds(FieldTest, FIELDS, st.just(MetadataOperator.IN), st.lists(st.booleans(), min_size=1, max_size=2).map(tuple)),
)
FILTERS: st.SearchStrategy[Filter] = st.recursive(
    TESTS,
    lambda below: st.one_of(
        *(st.builds(group, st.lists(below, min_size=1, max_size=3).map(tuple)) for group in (AllOf, AnyOf, NoneOf))
    ),
    max_leaves=6,
)
METADATA = st.dictionaries(FIELDS, SCALARS, max_size=5)
TENANTS = st.sampled_from(["acme", "acme ", "", "../acme", "acme'; drop table vectors; --", "t_", "default_database", "é" * 200])
TAKEN_AS_IT_COMES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.fixture
def sync_store(kind: StoreKind, address: str) -> Iterator[SyncStore]:
    with opened_sync(kind, address) as store:
        yield store


@settings(max_examples=12, deadline=None, suppress_health_check=TAKEN_AS_IT_COMES, phases=[Phase.explicit, Phase.generate])
@given(metadatas=st.lists(METADATA, min_size=1, max_size=12), filters=st.lists(FILTERS, min_size=5, max_size=12))
def test_a_filter_finds_what_matches_says(
    sync_store: SyncStore, metadatas: list[dict[str, Scalar]], filters: list[Filter]
) -> None:
    index = index_of(2)
    chunks = [IndexedChunk(UUID(int=number + 1), vector_of([1, number]), each) for number, each in enumerate(metadatas)]
    sync_store.create(index)
    sync_store.upsert(index, chunks)
    assert [(chunk.key, chunk.metadata) for chunk in sync_store.read(index)] == [(chunk.key, chunk.metadata) for chunk in chunks]
    for where in filters:
        found = {hit.key for hit in sync_store.search(index, vector_of([1, 1]), 50, where)}
        assert found == {chunk.key for chunk in chunks if matches(where, chunk.metadata)}, where
    sync_store.drop(index)


class Isolation(RuleBasedStateMachine):
    """Some indexes of hostile tenants with the same keys in them; each has exactly what was put into it."""

    def __init__(self, store: SyncStore) -> None:
        super().__init__()
        self._store = store
        self._expected: dict[Index, dict[UUID, IndexedChunk]] = {}

    @initialize(tenants=st.lists(TENANTS, min_size=3, max_size=4), distance=st.sampled_from(list(Distance)))
    def make_indexes(self, tenants: list[str], distance: Distance) -> None:
        for tenant in tenants:
            index = Index(uuid4(), tenant, 2, distance)
            self._store.create(index)
            self._expected[index] = {}

    @rule(place=st.integers(0, 3), numbers=st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True), metadata=METADATA)
    def upsert(self, place: int, numbers: list[int], metadata: dict[str, Scalar]) -> None:
        index = self._index(place)
        chunks = [IndexedChunk(UUID(int=number), vector_of([1, number]), metadata) for number in numbers]
        self._store.upsert(index, chunks)
        self._expected[index] |= {chunk.key: chunk for chunk in chunks}

    @rule(place=st.integers(0, 3), numbers=st.lists(st.integers(1, 6), min_size=1, max_size=4))
    def delete(self, place: int, numbers: list[int]) -> None:
        index = self._index(place)
        self._store.delete(index, [UUID(int=number) for number in numbers])
        for number in numbers:
            self._expected[index].pop(UUID(int=number), None)

    @rule(place=st.integers(0, 3))
    def drop_and_make_again(self, place: int) -> None:
        index = self._index(place)
        self._store.drop(index)
        self._store.create(index)
        self._expected[index].clear()

    @rule(place=st.integers(0, 3), where=FILTERS)
    def search(self, place: int, where: Filter) -> None:
        index = self._index(place)
        found = {hit.key for hit in self._store.search(index, vector_of([1, 0.5]), 20, where)}
        assert found == {key for key, chunk in self._expected[index].items() if matches(where, chunk.metadata)}

    @invariant()
    def each_index_has_its_own(self) -> None:
        for index, chunks in self._expected.items():
            found = {chunk.key: chunk.metadata for chunk in self._store.read(index)}
            assert found == {key: chunk.metadata for key, chunk in chunks.items()}

    def teardown(self) -> None:
        for index in self._expected:
            self._store.drop(index)

    def _index(self, place: int) -> Index:
        return list(self._expected)[place % len(self._expected)]


def test_no_index_shows_or_touches_what_is_in_another(sync_store: SyncStore) -> None:
    class IsolationInStore(Isolation):
        def __init__(self) -> None:
            super().__init__(sync_store)

    run_state_machine_as_test(
        IsolationInStore,
        settings=settings(
            max_examples=8,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate],
        ),
    )
