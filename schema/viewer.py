"""Who is calling."""

from __future__ import annotations

import strawberry
from strawberry import field

from app.access import allowance
from app.access.principal import Principal, Scope
from resolvers import viewer as resolve
from resolvers.inputs.enums import describe_enum
from schema.describes import describes

describe_enum(
    Scope,
    description="What a key may do.",
    values={
        "COMPLETIONS": "Call models, and read its tenant's completions.",
        "COSTS": "Read costs and usage records.",
        "BUDGETS": "Read, make and change budgets, and watch their alerts.",
        "BUDGETS_READ": "Read budgets and their alerts; BUDGETS includes it.",
        "VECTORS": "Read and write collections of documents. Not yet: it opens nothing.",
        "CACHE": "Read the cache's statistics and invalidate its entries.",
        "PROVIDERS": "Read the state of providers, models and routes.",
        "ADMIN": "Everything, in every tenant.",
    },
)


@describes(
    allowance.Allowance,
    description="Points a caller may spend on documents. Each document's points are in `extensions.cost`.",
)
class Allowance:
    capacity: int = field(description="Maximum number of points, such as 100000.")
    remaining: int = field(description="What is left now.")
    restores_per_second: float = field(description="How fast it fills again, such as 1000.")


@describes(Principal, description="The caller, as its key describes it.")
class Viewer:
    tenant: str = field(description="The tenant that the key belongs to.")
    key_name: str = field(description="Name of the key; never the key itself.")
    scopes: list[Scope] = strawberry.field(resolver=resolve.scopes, description="What the key may do.")
    allowance = strawberry.field(
        resolver=resolve.allowance, graphql_type=Allowance, description="What is left to spend on documents."
    )


@strawberry.type
class ViewerQueries:
    viewer = strawberry.field(
        resolver=resolve.viewer,
        graphql_type=Viewer | None,
        description="Who is calling, and what is left of the document allowance.",
    )
