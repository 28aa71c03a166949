"""Strawberry keeps graphql-core's schema as a private attribute. It is read here alone."""

from __future__ import annotations

import strawberry
from graphql import GraphQLSchema


def core_schema(schema: strawberry.Schema) -> GraphQLSchema:
    return schema._schema
