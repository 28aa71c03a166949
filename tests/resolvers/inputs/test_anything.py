"""Whatever a client sends that fits the schema is either taken or refused with a path: nothing else can happen."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLSchema,
    Undefined,
)
from graphql.utilities import coerce_input_value
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from app.access.principal import Principal, Scope
from app.domain.errors import Forbidden, Refused
from app.domain.problems import InvalidInput
from schema.build import build_schema
from tests.app.access.principals import principal
from tests.core_schema import core_schema

SCHEMA: GraphQLSchema = core_schema(build_schema())
CALLERS = (
    principal(Scope.ADMIN),
    principal(*Scope, tenant="acme", agent="research"),
    principal(Scope.COMPLETIONS, Scope.COSTS, Scope.BUDGETS, tenant="globex"),
)
TEXTS = st.one_of(
    st.sampled_from(
        ["", "acme", "research", "default", "openai/gpt", "UTC", "Europe/Berlin", "{}", "[", "a\0b", "\ud800", "QQ=="]
    ),
    st.text(max_size=20),
    st.sampled_from(["x" * 300, "https://example.com/a", "https://[", "image/png", "../../etc/passwd"]),
)
MAX_DEPTH = 8
"""An input may hold inputs of its own type, such as a filter of metadata."""

NUMBERS = st.one_of(st.sampled_from([-(2**31), -1, 0, 1, 2**31 - 1]), st.integers(-10, 5000))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXTS, below, max_size=3),
    max_leaves=5,
)
SCALARS: dict[str, st.SearchStrategy[object]] = {
    "String": TEXTS,
    "ID": TEXTS,
    "Int": NUMBERS,
    "Float": st.floats(allow_nan=False, allow_infinity=False) | NUMBERS,
    "Boolean": st.booleans(),
    "Decimal": st.sampled_from(["0", "-1", "250", "999999999999999999.999999999999", "0.000000000001"]),
    "DateTime": st.sampled_from(
        ["0001-01-01T00:00:00Z", "2026-03-01T00:00:00Z", "2026-04-01T00:00:00+05:45", "9999-12-31T23:59:59Z"]
    ),
    "JSON": JSON,
    "Cursor": st.sampled_from(["bm90IG91cnM", "x"]),
}


def values(kind: GraphQLInputType, depth: int = 0) -> st.SearchStrategy[Any]:
    if isinstance(kind, GraphQLNonNull):
        return present(kind.of_type, depth)
    return st.none() if depth > MAX_DEPTH else st.none() | present(kind, depth)


def present(kind: Any, depth: int) -> st.SearchStrategy[Any]:  # graphql-core's union of input types without non-null
    if isinstance(kind, GraphQLList):
        if depth > MAX_DEPTH:
            return st.just([])
        return st.lists(values(kind.of_type, depth + 1), max_size=3)
    if isinstance(kind, GraphQLEnumType):
        return st.sampled_from(list(kind.values))
    if not isinstance(kind, GraphQLInputObjectType):
        return SCALARS[kind.name]
    if kind.is_one_of:
        return st.one_of(*(st.fixed_dictionaries({name: present(field.type, depth + 1)}) for name, field in kind.fields.items()))
    needed = {
        name: values(field.type, depth + 1) for name, field in kind.fields.items() if isinstance(field.type, GraphQLNonNull)
    }
    left_out = {name: values(field.type, depth + 1) for name, field in kind.fields.items() if name not in needed}
    return st.fixed_dictionaries(needed, optional=left_out)


ROOT_INPUTS = sorted(
    name
    for name, found in SCHEMA.type_map.items()
    if isinstance(found, GraphQLInputObjectType)
    and hasattr(found.extensions["strawberry-definition"].origin, "to_domain")
    and set(inspect.signature(found.extensions["strawberry-definition"].origin.to_domain).parameters) <= {"self", "principal"}
)


class TestAnyInput:
    def test_the_arguments_of_root_fields_are_among_them(self) -> None:
        assert {"CompletionInput", "BudgetCreateInput", "BudgetUpdateInput", "BudgetFilter", "CostFilter"} <= set(ROOT_INPUTS)

    @pytest.mark.parametrize("name", ROOT_INPUTS)
    @given(data=st.data())
    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def test_is_taken_or_refused_with_a_path(self, name: str, data: st.DataObject) -> None:
        kind = SCHEMA.type_map[name]
        assert isinstance(kind, GraphQLInputObjectType)
        value = coerce_input_value(data.draw(present(kind, 0)), kind)
        assume(value is not Undefined)
        reason = refusal_of(kind, value, data.draw(st.sampled_from(CALLERS)))
        assert reason is None or (isinstance(reason, InvalidInput) and reason.path)


def refusal_of(kind: GraphQLInputObjectType, value: object, caller: Principal) -> object | None:
    """Why an input is refused; None where it is taken, or the caller may not ask for it."""
    definition = kind.extensions["strawberry-definition"]
    takes_caller = "principal" in inspect.signature(definition.origin.to_domain).parameters
    try:
        asked = definition.from_input(definition.origin, value, None)
        asked.to_domain(*((caller,) if takes_caller else ()))
    except Refused as refused:
        return refused.reason
    except Forbidden:
        if not takes_caller:
            raise
    return None
