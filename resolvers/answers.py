from __future__ import annotations

from typing import Annotated

import strawberry

from app.costs.budgets import BudgetExceeded
from app.domain.problems import Conflict, InvalidInput, NotFound
from app.llm.routing import ProvidersFailed, RateLimited
from app.retrieval.answers import Answer
from resolvers.info import Info
from resolvers.inputs.answers import AnswerInput
from resolvers.refusals import refusals


@refusals(BudgetExceeded, RateLimited, ProvidersFailed, InvalidInput, NotFound, Conflict)
async def answer_create(
    info: Info, request: Annotated[AnswerInput, strawberry.argument(name="input", description="The question, and where to look.")]
) -> Answer:
    return await info.context.services.vectors.answers.answer(request.to_domain(), info.context.principal)
