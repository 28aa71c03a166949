from __future__ import annotations

import strawberry
from strawberry import field

from app.costs.export import ExportFormat
from app.costs.queries import CostDimension
from resolvers.inputs.costs import CostFilter


@strawberry.input(description="Which costs, and the format of the file.")
class CostExportInput:
    filter: CostFilter = field(description="Which costs.")
    format: ExportFormat = field(description="Format of the file.")
    group_by: list[CostDimension] | None = field(
        description="Omit to get one row per usage record. Up to three dimensions, without LABEL."
    )
