"""Anything by its id."""

from __future__ import annotations

import strawberry

from resolvers import node as resolve
from schema.values import Node


@strawberry.type
class NodeQueries:
    node = strawberry.field(
        resolver=resolve.node,
        graphql_type=Node | None,
        description="Anything with an id, by its id; null where the caller may see nothing by it.",
    )
