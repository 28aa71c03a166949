from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import strawberry
from strawberry.schema.config import StrawberryConfig
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from app.graphql.plans import PlannedExecutor
from schema.scalars import SCALARS, print_date_time
from tests.app.graphql.asgi import Client
from tests.app.graphql.shop import Shop
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio


class Loud:
    """A domain object whose attribute fails."""

    name = "loud"

    @property
    def word(self) -> str:
        raise RuntimeError("secret")


@strawberry.type
class Leaf:
    word: str | None
    number: int


@strawberry.type
class Tree:
    name: str
    size: float | None
    leaf: Leaf | None
    leaves: list[Leaf]
    words: list[str | None]

    @strawberry.field
    def shout(self) -> str:
        return self.name.upper()


@strawberry.type
class Stone:
    name: str


def _tree(**changes: Any) -> Tree:
    plain = {
        "name": "oak",
        "size": 1.5,
        "leaf": Leaf(word="a", number=1),
        "leaves": [Leaf(word=None, number=number) for number in range(3)],
        "words": ["x", None],
    }
    return Tree(**{**plain, **changes})


@strawberry.type
class Query:
    @strawberry.field
    def tree(self) -> Tree | None:
        return _tree()

    @strawberry.field
    def trees(self) -> list[Tree]:
        return [_tree(name=name, leaf=None, size=None) for name in ("a", "b")]

    @strawberry.field
    def things(self) -> list[Tree | Stone]:
        return [_tree(), Stone(name="flint")]

    @strawberry.field
    def too_large(self) -> Tree | None:
        return _tree(leaves=[Leaf(word="a", number=1), Leaf(word="b", number=2**40)])

    @strawberry.field
    def hole(self) -> list[Tree | None] | None:
        return [_tree(), _tree(name=None), None]

    @strawberry.field
    def infinite(self) -> Tree | None:
        return _tree(size=float("inf"))

    @strawberry.field
    def number_as_text(self) -> Tree | None:
        return _tree(name=7)

    @strawberry.field
    def loud(self) -> list[Leaf | None] | None:
        return [Loud(), Leaf(word="quiet", number=1)]  # type: ignore[list-item]  # what a faulty resolver might return

    @strawberry.field
    def foreign(self) -> Leaf | None:
        return Stone(name="x")  # type: ignore[return-value]  # what a faulty resolver might return


SCHEMA = strawberry.Schema(Query)
ALL = "name size leaf { word number } leaves { word number } words __typename"


def without_plans(patch: pytest.MonkeyPatch) -> None:
    for name in ("complete_list_value", "complete_object_value"):
        patch.setattr(PlannedExecutor, name, getattr(StrawberryGraphQLCoreExecutionContext, name))


async def answers(query: str, monkeypatch: pytest.MonkeyPatch, variables: object = None) -> tuple[str, str]:
    """With plans and without; ids of errors are the only thing that may differ."""
    planned = await Client(Shop(schema=SCHEMA, clock=ManualClock()).app()).post(query, variables)
    without_plans(monkeypatch)
    plain = await Client(Shop(schema=SCHEMA, clock=ManualClock()).app()).post(query, variables)
    monkeypatch.undo()
    first, second = (re.sub(r'"errorId":"\w+"', "", answer.body.decode()) for answer in (planned, plain))
    return first, second


@strawberry.type
class Hours:
    instants: list[datetime]


def _hours() -> Hours:
    at = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)
    zoned = at.astimezone(timezone(timedelta(hours=2)))
    return Hours(instants=[at, at.replace(microsecond=1200), zoned, at.replace(year=1)])


@strawberry.type
class Times:
    hours: Hours | None = strawberry.field(resolver=_hours)


class TestInstants:
    async def test_they_are_written_as_the_scalar_writes_them(self) -> None:
        schema = strawberry.Schema(Times, config=StrawberryConfig(scalar_map=SCALARS))
        answer = await Client(Shop(schema=schema).app()).post("{ hours { instants } }")
        assert answer.data == {"hours": {"instants": [print_date_time(value) for value in _hours().instants]}}


@strawberry.type
class Numbers:
    @strawberry.field
    def of_kind(self, kind: str) -> list[Numbered]:
        return [Numbered(vectors=VECTORS[kind])]


@strawberry.type
class Numbered:
    vectors: list[list[float]]


VECTORS: Mapping[str, Any] = {
    "floats": ((0.1, -2.5e-9), [1e308, 1e308], ()),
    "whole": [[1, 2.5], [True]],
    "infinite": [[1.0, float("inf")]],
    "opposite": [[float("inf"), float("-inf")]],
    "unknown": [[float("nan")]],
    "text": [["1.5", "x"]],
    "none": [[1.0, None]],
    "flat": [1.5],
}


class TestVectors:
    @pytest.mark.parametrize("kind", VECTORS)
    async def test_are_the_same_as_without(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        schema = strawberry.Schema(Numbers)
        found = []
        for plans in (True, False):
            if not plans:
                without_plans(monkeypatch)
            shop = Shop(schema=schema, clock=ManualClock())
            answer = await Client(shop.app()).post(f'{{ ofKind(kind: "{kind}") {{ vectors }} }}')
            found.append(re.sub(r'"errorId":"\w+"', "", answer.body.decode()))
        assert found[0] == found[1]
        assert ('"errors"' in found[0]) == (kind not in {"floats", "whole"})


class TestSameAsWithout:
    @pytest.mark.parametrize(
        "query",
        [
            f"{{ tree {{ {ALL} }} }}",
            f"{{ trees {{ {ALL} }} }}",
            f"{{ tree {{ again: name {ALL} shout }} }}",
            "{ trees { shout leaves { number } } }",
            "{ tree { ...T ...T leaf { number } } } fragment T on Tree { leaf { word } name }",
            "{ things { ... on Tree { name leaf { word } } ... on Stone { name __typename } } }",
            "{ tree { leaf { w: word } leaf { n: number } } }",
        ],
    )
    async def test_good_answers(self, query: str, monkeypatch: pytest.MonkeyPatch) -> None:
        planned, plain = await answers(query, monkeypatch)
        assert planned == plain
        assert '"errors"' not in planned

    @pytest.mark.parametrize("field", ["tooLarge", "hole", "infinite", "numberAsText"])
    async def test_values_that_do_not_fit(self, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
        planned, plain = await answers(f"{{ {field} {{ {ALL} }} }}", monkeypatch)
        assert planned == plain

    @pytest.mark.parametrize("field", ["loud", "foreign"])
    async def test_objects_that_fail(self, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
        planned, plain = await answers(f"{{ {field} {{ word }} }}", monkeypatch)
        assert planned == plain
        assert "INTERNAL" in planned
        assert "secret" not in planned

    async def test_one_document_with_other_variables(self) -> None:
        client = Client(Shop(schema=SCHEMA).app())
        query = "query($more: Boolean!) { tree { name size @include(if: $more) } }"
        assert (await client.post(query, {"more": True})).data == {"tree": {"name": "oak", "size": 1.5}}
        assert (await client.post(query, {"more": False})).data == {"tree": {"name": "oak"}}
        assert (await client.post(query, {"more": True})).data == {"tree": {"name": "oak", "size": 1.5}}
