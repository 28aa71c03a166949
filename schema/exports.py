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


@describes(export.CostExport, description="A file that is written while it is downloaded.")
class CostExport:
    url: str = field(description="Where to download the file. The link works without a key.")
    expires_at: datetime = field(description="A download must begin before this time.")


CostExportCreateResult: TypeAlias = Annotated[
    CostExport | InvalidInput,
    strawberry.union("CostExportCreateResult", description="A link to the file, or the reason why there is none."),
]


@strawberry.type
class ExportMutations:
    cost_export_create = strawberry.field(
        resolver=resolve.cost_export_create,
        graphql_type=CostExportCreateResult | None,
        description="A file of costs, streamed from `url`.",
    )
