"""Any object by its id."""

from __future__ import annotations

import strawberry

from resolvers import node as resolve
from schema.values import Node


@strawberry.type
class NodeQueries:
    node = strawberry.field(
        resolver=resolve.node,
        graphql_type=Node | None,
        description="Fetch an object by its id. Null if it does not exist or the caller may not see it.",
    )
