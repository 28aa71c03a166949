"""What clients were promised: the exported schema is a part of the contract, equal in name, shape and nullability."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from graphql import GraphQLSchema, build_schema

from schema import build, export
from tests.core_schema import core_schema
from tests.schema.shapes import descriptions, public_types, shape

CONTRACT = Path(__file__).with_name("contract.graphql")
ROOTS = ("Query", "Mutation", "Subscription")

NOT_YET: set[str] = set()


@pytest.fixture(scope="module")
def contract() -> GraphQLSchema:
    return build_schema(CONTRACT.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ours() -> GraphQLSchema:
    return core_schema(build.build_schema())


def root_fields(schema: GraphQLSchema) -> set[str]:
    found = public_types(schema)
    return {f"{root}.{name}" for root in ROOTS if root in found for name in shape_of_root(schema, root)}


def shape_of_root(schema: GraphQLSchema, root: str) -> dict[str, str]:
    lines = shape(public_types(schema)[root])
    return {line.removeprefix(f"{root}."): text for line, text in lines.items() if line != root and "(" not in line}


class TestTheSchemaIsTheContract:
    def test_has_no_type_of_its_own(self, ours: GraphQLSchema, contract: GraphQLSchema) -> None:
        assert set(public_types(ours)) <= set(public_types(contract))

    def test_each_type_has_the_contracts_shape(self, ours: GraphQLSchema, contract: GraphQLSchema) -> None:
        promised = public_types(contract)
        for name, found in public_types(ours).items():
            if name not in ROOTS:
                assert shape(found) == shape(promised[name])

    def test_each_root_field_has_the_contracts_shape(self, ours: GraphQLSchema, contract: GraphQLSchema) -> None:
        promised = public_types(contract)
        for name in ROOTS:
            if name in public_types(ours):
                assert shape(public_types(ours)[name]).items() <= shape(promised[name]).items()

    def test_says_which_root_fields_are_not_there_yet(self, ours: GraphQLSchema, contract: GraphQLSchema) -> None:
        assert root_fields(contract) - root_fields(ours) == NOT_YET

    def test_keeps_the_contracts_words(self, ours: GraphQLSchema, contract: GraphQLSchema) -> None:
        promised = public_types(contract)
        for name, found in public_types(ours).items():
            texts = descriptions(found)
            for coordinate, words in descriptions(promised[name]).items():
                if words is not None and coordinate in texts:
                    assert plain(words) in plain(texts[coordinate]), coordinate


class TestTheExportedFile:
    def test_is_not_stale(self) -> None:
        exported = export.EXPORTED.read_text(encoding="utf-8")
        assert exported == export.export(), "run: python -m schema.export"

    def test_builds_and_holds_no_directive_but_one_of(self) -> None:
        exported = export.EXPORTED.read_text(encoding="utf-8")
        build_schema(exported)
        without_texts = re.sub(r'""".*?"""', "", exported, flags=re.DOTALL)
        assert set(re.findall(r"@\w+", without_texts)) <= {"@oneOf"}


def plain(words: str | None) -> str:
    return " ".join((words or "").replace("`", "").rstrip(".").lower().split())
