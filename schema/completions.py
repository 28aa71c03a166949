"""Completions: one call of a language model, from its input to its answer and its attempts."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, TypeAlias

import strawberry
from strawberry import ID, field

from app import completion_events, completions
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
from schema.streams import Heartbeat, StreamEvent
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
    notes: list[str] = field(
        description="What was changed on the way, such as a parameter the model does not take; why it was cancelled, if its API "
        "key was revoked."
    )
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

CompletionStartResult: TypeAlias = Annotated[
    Completion | BudgetExceeded | RateLimited | InvalidInput | Conflict,
    strawberry.union("CompletionStartResult", description="The completion that was accepted, or why none was."),
]
CompletionCancelResult: TypeAlias = Annotated[
    Completion | NotFound,
    strawberry.union("CompletionCancelResult", description="The completion as it ended, or that there is none."),
]


@describes(completion_events.CompletionStarted, description="The call was accepted.")
class CompletionStarted(StreamEvent):
    completion_id: ID = field(description="By which it can be watched, cancelled and found again.")


@describes(completion_events.CompletionDelta, description="The next words of the answer.")
class CompletionDelta(StreamEvent):
    text: str = field(description="To be put behind what came before.")


@describes(completion_events.ToolCallDelta, description="The next piece of a tool call.")
class ToolCallDelta(StreamEvent):
    tool_call_id: ID = field(description="Which of the answer's tool calls it belongs to.")
    name: str | None = field(description="Name of the tool, with the call's first piece; null after it.")
    arguments_delta: str = field(description="JSON text, to be put behind what came before.")


@describes(
    completion_events.CompletionRerouted,
    description="A target failed before any of its content was shown; the next is being tried.",
)
class CompletionRerouted(StreamEvent):
    attempt: Attempt = field(description="The one that failed.")


@describes(completion_events.CompletionFinished, description="The answer is whole, and in the ledger.")
class CompletionFinished(StreamEvent):
    completion: Completion = field(description="With the whole answer.")


@describes(completion_events.CompletionFailed, description="What was streamed is not a whole answer.")
class CompletionFailed(StreamEvent):
    problem: CompletionProblem = field(description="Why.")
    partial: Completion | None = field(description="With the text so far and what it cost; null where nothing was started.")


@describes(completion_events.CompletionCancelled, description="Stopped on request.")
class CompletionCancelled(StreamEvent):
    completion: Completion = field(description="With what was made so far, which stays charged.")


CompletionEvent: TypeAlias = Annotated[
    CompletionStarted
    | CompletionDelta
    | ToolCallDelta
    | CompletionRerouted
    | CompletionFinished
    | CompletionFailed
    | CompletionCancelled
    | Heartbeat,
    strawberry.union("CompletionEvent", description="Exactly one of Finished, Failed or Cancelled ends the stream."),
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
    completion_start = strawberry.field(
        resolver=resolve.completion_start,
        graphql_type=CompletionStartResult | None,
        description="Accept a completion and return at once; watch it with completionEvents.",
    )
    completion_cancel = strawberry.field(
        resolver=resolve.completion_cancel,
        graphql_type=CompletionCancelResult | None,
        description="What was produced so far stays charged. Gives back the completion as it ended.",
    )


@strawberry.type
class CompletionSubscriptions:
    completion_events = strawberry.field(
        resolver=resolve.completion_events,
        is_subscription=True,
        graphql_type=CompletionEvent,
        description="Events of one completion, from the first or after a cursor; ends after the finished or failed event.",
    )
    completion_stream = strawberry.field(
        resolver=resolve.completion_stream,
        is_subscription=True,
        graphql_type=CompletionEvent,
        description="Start and watch in one operation; a repeat with the same idempotency key joins the running stream.",
        metadata={"spends": True},
    )
