"""The one schema: its roots, its scalars, and the permissions in front of it."""

from __future__ import annotations

import strawberry
from strawberry.schema.config import StrawberryConfig

from resolvers import completions, viewer
from schema.completions import Completion, CompletionCreateResult
from schema.inputs import plan_inputs
from schema.permissions import enforce
from schema.scalars import SCALARS
from schema.viewer import Viewer


@strawberry.type(description="What can be read.")
class Query:
    viewer = strawberry.field(
        resolver=viewer.viewer,
        graphql_type=Viewer | None,
        description="Who is calling, and what is left of the document allowance.",
    )
    completion = strawberry.field(
        resolver=completions.completion,
        graphql_type=Completion | None,
        description="A completion of the caller's tenant; null where there is none by this id.",
    )


@strawberry.type(description="What can be done.")
class Mutation:
    completion_create = strawberry.field(
        resolver=completions.completion_create,
        graphql_type=CompletionCreateResult | None,
        description="Run a completion and wait for the whole answer.",
    )


def build_schema() -> strawberry.Schema:
    """`schema._schema` is graphql-core's own, with the permission checks in place."""
    schema = strawberry.Schema(
        query=Query,
        mutation=Mutation,
        config=StrawberryConfig(scalar_map=SCALARS),
    )
    plan_inputs(schema._schema, schema.config)
    enforce(schema._schema)
    return schema
