"""Completions: one call of a language model, from its input to its answer and its attempts."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, TypeAlias

import strawberry
from strawberry import ID, field

from app import completions
from app.completions import CompletionStatus
from app.llm import messages
from app.llm.messages import FinishReason
from app.usage import CacheTier
from resolvers import completions as resolve
from resolvers.inputs.enums import describe_enum
from schema.budgets import BudgetExceeded
from schema.describes import describes
from schema.problems import Conflict, CursorExpired, InvalidInput, NotFound
from schema.providers import ProvidersFailed, RateLimited
from schema.scalars import JSON
from schema.values import Attempt, Label, Node, TokenUsage

describe_enum(
    CacheTier,
    description="Where a cached answer was found, nearest first.",
    values={
        "MEMORY": "The memory of the process.",
        "LOCAL_REDIS": "The Redis beside the process.",
        "SHARED_REDIS": "The Redis that all pods share.",
        "POSTGRES": "The database.",
    },
)
describe_enum(
    CompletionStatus,
    description="How far a completion has come.",
    values={
        "RUNNING": "Not answered yet.",
        "FINISHED": "Answered in whole.",
        "FAILED": "Not answered in whole; `problem` says why.",
        "CANCELLED": "Stopped on request; what was made so far is there, and charged.",
    },
)
describe_enum(
    FinishReason,
    description="Why the model stopped writing.",
    values={
        "STOP": "It was done, or met a stop text.",
        "LENGTH": "It reached the output cap.",
        "TOOL_CALLS": "It waits for the results of tools.",
        "CONTENT_FILTER": "The provider's content filter stopped it.",
        "CANCELLED": "The call was cancelled.",
    },
)


@describes(messages.ToolCall, description="A tool that the model asks for.")
class ToolCall:
    id: ID = field(description="The model's own id of this call; the result names it.")
    name: str = field(description="Name of the tool, as it was given.")
    arguments: str = field(description='JSON text, as the model wrote it, such as `{"city": "Oslo"}`.')


@describes(completions.CacheHit, description="Where a cached answer came from.")
class CacheHit:
    tier: CacheTier = field(description="Where it was found.")
    age_seconds: float = field(description="How long ago it was made.")
    saved_usd: Decimal | None = field(description="What the same call would have cost; null where unknown.")


CompletionProblem: TypeAlias = Annotated[
    BudgetExceeded | RateLimited | ProvidersFailed | InvalidInput | Conflict | NotFound | CursorExpired,
    strawberry.union("CompletionProblem", description="Why a completion failed, or could not be shown."),
]


@describes(
    completions.Completion, description="One call of a language model: what was asked of whom, the answer, and what it cost."
)
class Completion(Node):
    status: CompletionStatus = field(description="How far it has come.")
    text: str | None = field(description="The answer's words; null where there are none, or they are no longer kept.")
    reasoning: JSON | None = field(description="Opaque blocks to give back with the next message of a tool loop.")
    tool_calls: list[ToolCall] = field(description="Tools that the model asks for; give back their results in the next call.")
    finish_reason: FinishReason | None = field(description="Why the model stopped; null until it has.")
    problem: CompletionProblem | None = field(description="Why it failed; null otherwise.")
    notes: list[str] = field(description="What was changed on the way, such as a parameter the model does not take.")
    requested_model: str | None = field(description="As it was asked for; null where the call named none.")
    route: str | None = field(description="Name of the route taken, such as `default`; null where a target was named.")
    output_cap_tokens: int | None = field(description="The output cap really sent.")
    capped_by_budget: bool = field(
        description="True where a budget lowered the cap: a finish for LENGTH is then the budget's doing."
    )
    provider: str | None = field(description="The target that answered; null until one has.")
    model: str | None = field(description="The model that answered; null until one has.")
    usage: TokenUsage | None = field(description="Null until known.")
    cost_usd: Decimal | None = field(description="All attempts together; null where a price is unknown.")
    cache: CacheHit | None = field(description="Null on a miss.")
    attempts: list[Attempt] = field(description="Every target tried or passed over, in order.")
    latency_ms: float | None = field(description="From the call's arrival to its end; null until then.")
    overhead_ms: float | None = field(description="Time spent in this service rather than in the provider.")
    first_token_ms: float | None = field(
        description="From the call's arrival to the first token; null where it was not streamed."
    )
    tenant: str = field(description="Who is charged.")
    agent: str | None = field(description="Which of the tenant's agents called.")
    labels: list[Label] = field(description="The call's marks.")
    created_at: datetime = field(description="When it was asked for.")
    finished_at: datetime | None = field(description="When it ended; null while it runs.")


CompletionCreateResult: TypeAlias = Annotated[
    Completion | BudgetExceeded | RateLimited | ProvidersFailed | InvalidInput | Conflict,
    strawberry.union("CompletionCreateResult", description="The whole answer, or why there is none."),
]


@strawberry.type
class CompletionQueries:
    completion = strawberry.field(
        resolver=resolve.completion,
        graphql_type=Completion | None,
        description="A completion of the caller's tenant; null where there is none by this id.",
    )


@strawberry.type
class CompletionMutations:
    completion_create = strawberry.field(
        resolver=resolve.completion_create,
        graphql_type=CompletionCreateResult | None,
        description="Run a completion and wait for the whole answer.",
    )
