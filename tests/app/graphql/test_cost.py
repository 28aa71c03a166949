from __future__ import annotations

import pytest
import strawberry

from tests.app.graphql.asgi import Answer, Client
from tests.app.graphql.shop import OTHER_KEY, Shop, with_limits

pytestmark = pytest.mark.anyio


@strawberry.type
class Thing:
    id: int


def _words() -> list[str]:
    return ["a"]


def _things() -> list[Thing]:
    return [Thing(id=1), Thing(id=2)]


@strawberry.type
class Weighed:
    words: list[str] = strawberry.field(resolver=_words, metadata={"cost": 7})
    things: list[Thing] = strawberry.field(resolver=_things, metadata={"list_size": 3, "cost": 2})


@strawberry.interface
class Either:
    id: int

    @strawberry.field
    def pages(self, first: int = 50) -> list[Thing]:
        return [Thing(id=first)]


@strawberry.type
class Few(Either):
    pass


@strawberry.type
class Many(Either):
    pass


@strawberry.type
class Chosen:
    @strawberry.field
    def either(self) -> Either:
        return Few(id=1)


def cost_of(answer: Answer) -> tuple[object, object]:
    assert "errors" not in answer.json, answer.json
    cost = answer.json["extensions"]["cost"]  # type: ignore[index]  # JSON
    return cost["requested"], cost["actual"]


class TestPoints:
    @pytest.mark.parametrize(
        ("query", "variables", "requested", "actual"),
        [
            ("{ hello }", None, 1, 1),
            ("{ rows { nodes { id } } }", None, 51, 4),
            ("{ rows(first: 2) { nodes { id name } } }", None, 3, 3),
            ("{ rows(first: 3) { nodes { rows(first: 5) { id } } } }", None, 1 + 3 * (1 + 5), 1 + 3 * (1 + 5)),
            ("query($n: Int!) { rows(first: $n) { nodes { id } } }", {"n": 10}, 11, 4),
            ("query($n: Int) { rows(first: $n) { nodes { id } } }", {}, 51, 4),
            ("query($n: Int = 7) { rows(first: $n) { nodes { id } } }", {}, 8, 4),
            ("{ a: rows(first: 3) { nodes { id } } b: rows(first: 2) { nodes { id } } }", None, 7, 7),
            ("{ rows(first: 3) { ...R } } fragment R on Rows { ... { nodes { id } } }", None, 4, 4),
            ("{ rows(first: 3) { nodes { id } nodes { name } } }", None, 4, 4),
        ],
    )
    async def test_one_for_each_object_a_document_can_bring(
        self, query: str, variables: object, requested: int, actual: int
    ) -> None:
        assert cost_of(await Client(Shop().app()).post(query, variables)) == (requested, actual)

    async def test_of_types_that_share_a_key_the_most_expensive_counts(self) -> None:
        client = Client(Shop(schema=strawberry.Schema(Chosen, types=[Few, Many])).app())
        several = "{ either { ... on Few { it: pages(first: 1) { id } } ... on Many { it: pages(first: %s) { id } } } }"
        assert cost_of(await client.post(several % 90)) == (1 + 90, 2)
        assert cost_of(await client.post("query($n: Int) " + several % "$n", {"n": 80})) == (1 + 80, 2)

    async def test_an_author_may_weigh_a_field_and_size_a_list(self) -> None:
        client = Client(Shop(schema=strawberry.Schema(Weighed)).app())
        assert cost_of(await client.post("{ things { id } }")) == (6, 4)
        assert cost_of(await client.post("{ words }"))[0] == 70


class TestLimit:
    @pytest.mark.parametrize(
        ("query", "variables"),
        [
            ("{ rows(first: 100) { nodes { rows(first: 100) { id } } } }", None),
            ("query($n: Int) { rows(first: $n) { nodes { rows(first: $n) { id } } } }", {"n": 100}),
        ],
    )
    async def test_pages_in_pages_are_refused_before_anything_runs(self, query: str, variables: object) -> None:
        shop = Shop()
        answer = await Client(shop.app()).post(query, variables)
        assert answer.extensions == {"code": "LIMIT_EXCEEDED", "limit": "cost", "had": 10_101, "allowed": 5_000}
        assert answer.status == 400
        assert shop.board.contexts == []

    @pytest.mark.parametrize(
        ("query", "variables"),
        [
            ("{ rows(first: -1) { nodes { id } } }", None),
            ("query($n: Int) { rows(first: $n) { nodes { id } } }", {"n": -5}),
        ],
    )
    async def test_a_page_below_zero_is_left_to_be_refused_by_its_reader(self, query: str, variables: object) -> None:
        answer = await Client(Shop().app()).post(query, variables)
        assert (answer.status, answer.json["data"]) == (200, {"rows": {"nodes": []}})


class TestAllowance:
    async def test_each_key_spends_its_own(self) -> None:
        app = Shop(with_limits(allowance_capacity=120, allowance_per_second=0.5)).app()
        query = "{ a: rows(first: 100) { nodes { id } } }"
        assert (await Client(app).post(query)).status == 200
        for _ in range(30):
            await Client(app).post("{ rows(first: 3) { nodes { id } } }")
        answer = await Client(app).post(query)
        assert (answer.status, answer.extensions["limit"]) == (429, "allowance")
        assert int(answer.headers["retry-after"]) > 1
        assert answer.extensions["had"] == 101
        assert (await Client(app, key=OTHER_KEY).post(query)).status == 200

    async def test_a_resolver_sees_what_is_left(self) -> None:
        app = Shop(with_limits(allowance_capacity=100, allowance_per_second=0.001)).app()
        assert (await Client(app).post("{ remaining }")).data == {"remaining": 99}
