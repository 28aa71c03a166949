from __future__ import annotations

import strawberry
from strawberry import field

from app.costs.export import ExportFormat
from app.costs.queries import CostDimension
from resolvers.inputs.costs import CostFilter


@strawberry.input(description="Which costs, and how they are written down.")
class CostExportInput:
    filter: CostFilter = field(description="Which costs.")
    format: ExportFormat = field(description="What the file looks like.")
    group_by: list[CostDimension] | None = field(
        description="Left out: one row per usage record. Up to three dimensions, LABEL not among them."
    )
