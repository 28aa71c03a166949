"""Answers from the passages of a collection, with the words that they rest on."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import strawberry
from strawberry import field

from app.retrieval import answers
from resolvers import answers as resolve
from schema.budgets import BudgetExceeded
from schema.completions import Completion
from schema.describes import describes
from schema.problems import Conflict, InvalidInput, NotFound
from schema.providers import ProvidersFailed, RateLimited
from schema.vectors import SearchHit


@describes(answers.Citation, description="Words that an answer rests on, and the passage that has them.")
class Citation:
    hit: SearchHit = field(description="The passage, as it is stored.")
    quote: str = field(
        description="The words of the passage the answer rests on. They are the passage's own: a quote of the model that is not "
        "found in the passage that it names is left out."
    )


@describes(answers.Answer, description="An answer from the passages that a search has found.")
class Answer:
    text: str = field(description="The statements of the model, without the quotes. Empty if it made none.")
    citations: list[Citation] = field(description="What the statements rest on, in the order of the statements.")
    grounded: bool = field(
        description="False where the passages do not carry the answer: nothing was found, or a statement has no quote that "
        "is in its passage."
    )
    completion: Completion = field(
        description="The call of the model, with the same text. If nothing was found, no model was asked and the cost is 0."
    )


AnswerCreateResult: TypeAlias = Annotated[
    Answer | BudgetExceeded | RateLimited | ProvidersFailed | InvalidInput | NotFound | Conflict,
    strawberry.union("AnswerCreateResult", description="The answer, or the reason why there is none."),
]


@strawberry.type
class AnswerMutations:
    answer_create = strawberry.field(
        resolver=resolve.answer_create,
        graphql_type=AnswerCreateResult | None,
        description="Retrieve passages, then answer from them with citations. Needs the scopes VECTORS and COMPLETIONS.",
    )
