from __future__ import annotations

from typing import Annotated

import strawberry

from app.costs.export import CostExport
from app.domain.problems import InvalidInput
from resolvers.info import Info
from resolvers.inputs.exports import CostExportInput
from resolvers.refusals import refusals


@refusals(InvalidInput)
async def cost_export_create(
    info: Info,
    request: Annotated[CostExportInput, strawberry.argument(name="input", description="The file to write.")],
) -> CostExport:
    where = request.filter.to_domain(info.context.principal)
    key = info.context.principal.key_id
    return await info.context.services.exports.create(where, request.format, tuple(request.group_by or ()), key)
