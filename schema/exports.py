"""Costs as files."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, TypeAlias

import strawberry
from strawberry import field

from app.costs import export
from resolvers import exports as resolve
from schema.describes import describes
from schema.problems import InvalidInput


@describes(export.CostExport, description="A file, made while it is fetched.")
class CostExport:
    url: str = field(description="Where to fetch the file; whoever has this link needs no key.")
    expires_at: datetime = field(description="Until when a download may begin.")


CostExportCreateResult: TypeAlias = Annotated[
    CostExport | InvalidInput,
    strawberry.union("CostExportCreateResult", description="A link to the file, or why there is none."),
]


@strawberry.type
class ExportMutations:
    cost_export_create = strawberry.field(
        resolver=resolve.cost_export_create,
        graphql_type=CostExportCreateResult | None,
        description="A file of costs, streamed from `url`.",
    )
