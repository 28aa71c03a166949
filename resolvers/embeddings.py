from __future__ import annotations

from typing import Annotated

import strawberry

from app.costs.budgets import BudgetExceeded
from app.domain.problems import Conflict, InvalidInput
from app.gateway.embeddings import Embeddings
from app.llm.routing import ProvidersFailed, RateLimited
from resolvers.info import Info
from resolvers.inputs.embeddings import EmbeddingsInput
from resolvers.refusals import refusals


@refusals(BudgetExceeded, RateLimited, ProvidersFailed, InvalidInput, Conflict)
async def embeddings_create(
    info: Info, request: Annotated[EmbeddingsInput, strawberry.argument(name="input", description="The texts to embed.")]
) -> Embeddings:
    return await info.context.services.gateway.embed(request.to_domain(), info.context.principal)
