"""The SQL of a filter means what `matches` says, for any metadata and any filter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Text, cast, literal, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from app.vectors.filter_sql import filter_condition
from app.vectors.filters import AllOf, AnyOf, FieldTest, Filter, MetadataOperator, NoneOf, Scalar, filterable, matches

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=3)
NUMBERS = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), st.integers(-2, 2))
SCALARS: st.SearchStrategy[Scalar] = st.one_of(TEXTS, NUMBERS, st.booleans())
FIELDS = st.sampled_from(["a", "b", "it's", '"', "é"])
ORDERED = st.sampled_from([MetadataOperator.GT, MetadataOperator.GTE, MetadataOperator.LT, MetadataOperator.LTE])
TESTS = st.one_of(
    st.builds(FieldTest, FIELDS, st.sampled_from([MetadataOperator.EQ, MetadataOperator.NE]), SCALARS),
    st.builds(FieldTest, FIELDS, ORDERED, st.one_of(TEXTS, NUMBERS)),
    st.builds(FieldTest, FIELDS, st.just(MetadataOperator.IN), st.lists(TEXTS, min_size=1, max_size=3).map(tuple)),
    st.builds(FieldTest, FIELDS, st.just(MetadataOperator.IN), st.lists(NUMBERS, min_size=1, max_size=3).map(tuple)),
)
FILTERS: st.SearchStrategy[Filter] = st.recursive(
    TESTS,
    lambda below: st.one_of(
        *(st.builds(group, st.lists(below, min_size=1, max_size=3).map(tuple)) for group in (AllOf, AnyOf, NoneOf))
    ),
    max_leaves=5,
)
METADATA = st.dictionaries(FIELDS, SCALARS, max_size=4)


class Asking:
    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1), poolclass=NullPool)
        self._connection: AsyncConnection = self._runner.run(self._connect())

    async def _connect(self) -> AsyncConnection:
        return await self._engine.connect()

    def matches(self, where: Filter, metadata: dict[str, Scalar]) -> object:
        asked = select(filter_condition(where, cast(literal(json.dumps(metadata), Text), JSONB)))

        async def ask() -> object:
            return (await self._connection.execute(asked)).scalar_one()

        return self._runner.run(ask())

    def close(self) -> None:
        self._runner.run(self._connection.close())
        self._runner.run(self._engine.dispose())
        self._runner.close()


@pytest.fixture(scope="module")
def postgres(postgres_url: str) -> Iterator[Asking]:
    asking = Asking(postgres_url)
    yield asking
    asking.close()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=FILTERS, metadata=METADATA)
def test_sql_and_python_agree(postgres: Asking, where: Filter, metadata: dict[str, Scalar]) -> None:
    kept = filterable(metadata)
    assert postgres.matches(where, kept) is matches(where, kept)
