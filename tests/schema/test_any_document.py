"""Unforeseen documents: each is answered by the rules of the schema or refused by name, never with a surprise.

`ANY_DOCUMENTS=1000` tries more of them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping

import pytest
import strawberry
from graphql import ValueNode
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis_graphql import from_schema, nodes
from starlette.applications import Starlette

from app.access.allowance import Allowance
from app.access.principal import Principal
from app.context import OperationContext
from app.graphql.errors import Code
from app.graphql.routes import build_graphql_routes, build_operations
from app.runtime.clock import SystemClock
from schema.export import EXPORTED
from tests.app.graphql.asgi import Client
from tests.schema.api import ACME, ADMIN, Api

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]

MANY = int(os.environ.get("ANY_DOCUMENTS", "200"))
CODES = frozenset(Code)
SURPRISES = {"INTERNAL", "TIMEOUT", "OVERLOADED", "STORE_UNAVAILABLE"}


def texts(*values: str) -> st.SearchStrategy[ValueNode]:
    return st.sampled_from(values).map(nodes.String)


SCALARS: Mapping[str, st.SearchStrategy[ValueNode]] = {
    "Decimal": st.decimals(-(10**6), 10**6, allow_nan=False, places=3).map(str).map(nodes.String)
    | texts("NaN", "1E+999999999", "-0", "0.0000000000001"),
    "DateTime": st.datetimes().map(lambda at: nodes.String(f"{at.isoformat()}Z"))
    | texts("2026-01-01T00:00:00", "2026-02-30T00:00:00Z", "0001-01-01T00:00:00+14:00"),
    "BigInt": st.integers().map(str).map(nodes.String),
    "Cursor": st.text().map(nodes.String),
    "JSON": st.text().map(nodes.String) | st.integers().map(nodes.Int) | st.booleans().map(nodes.Boolean),
}


@pytest.fixture(scope="module")
def documents() -> list[str]:
    """Made before anything is connected, since it takes long."""
    found: list[str] = []

    @settings(
        max_examples=MANY, derandomize=True, database=None, deadline=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(from_schema(EXPORTED.read_text(encoding="utf-8"), custom_scalars=dict(SCALARS)))
    def collect(document: object) -> None:
        found.append(str(document))

    collect()
    return found


def served(schema: strawberry.Schema, api: Api) -> Starlette:
    services = api.services
    limits = services.settings.limits.model_copy(update={"allowance_capacity": 10**9})
    callers = {"Bearer acme": ACME, "Bearer admin": ADMIN}

    async def authenticate(headers: Mapping[str, str]) -> Principal:
        return callers[headers["authorization"]]

    def make_context(principal: Principal, _request_id: str, _allowance: Allowance) -> OperationContext:
        return api.context(principal)

    operations = build_operations(
        schema,
        settings=services.settings.model_copy(update={"limits": limits}),
        authenticate=authenticate,
        make_context=make_context,
        clock=SystemClock(),
        offload=services.offload,
        misuse=services.misuse,
        drain=services.drain,
    )
    return Starlette(routes=build_graphql_routes(schema, operations, services.settings.server))


def codes_of(answer: object) -> set[str]:
    """Of a response as the specification of GraphQL has it: data, errors or both, and nothing else but extensions."""
    assert isinstance(answer, dict)
    assert answer.keys() <= {"data", "errors", "extensions"}
    assert "data" in answer or answer["errors"]
    assert answer.get("errors") != []
    for error in answer.get("errors", ()):
        assert error.keys() <= {"message", "locations", "path", "extensions"}
        assert error["message"]
        assert error["extensions"]["code"] in CODES
        assert "data" in answer or "path" not in error
    return {error["extensions"]["code"] for error in answer.get("errors", ())}


class TestAnyDocument:
    async def test_is_answered_or_refused_by_name(self, documents: list[str], built_schema: strawberry.Schema, api: Api) -> None:
        app = served(built_schema, api)
        seen: Counter[str] = Counter()
        for number, document in enumerate(documents):
            answer = await Client(app, key=("acme", "admin")[number % 2]).post(document)
            assert answer.status < 500, (document, answer.body)
            codes = codes_of(answer.json)
            assert not codes & SURPRISES, (document, answer.body)
            seen.update(codes or {"answered"})
        assert seen["answered"] > 0
        assert seen["BAD_USER_INPUT"] > 0
