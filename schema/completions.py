"""Completions: one call of a language model, from its input to its answer and its attempts."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, TypeAlias

import strawberry
from strawberry import ID, field

from app.gateway import completions
from app.gateway.completions import CompletionStatus
from app.gateway.streams import events as completion_events
from app.llm import messages
from app.llm.messages import FinishReason
from app.llm.routing import RestartReason
from resolvers import completions as resolve
from resolvers.inputs.enums import describe_enum
from schema.budgets import BudgetExceeded
from schema.cache import CacheHit
from schema.describes import describes
from schema.problems import Conflict, CursorExpired, InvalidInput, NotFound
from schema.providers import ProvidersFailed, RateLimited
from schema.scalars import JSON
from schema.streams import Heartbeat, StreamEvent
from schema.values import Attempt, Label, Node, TokenUsage

describe_enum(
    CompletionStatus,
    description="How far a completion has come.",
    values={
        "RUNNING": "Not answered yet.",
        "FINISHED": "Answered in whole.",
        "FAILED": "Not answered in whole; `problem` says why.",
        "CANCELLED": "Stopped on request. The partial answer is available and charged.",
    },
)
describe_enum(
    FinishReason,
    description="Why the model stopped writing.",
    values={
        "STOP": "It finished or reached a stop text.",
        "LENGTH": "It reached the output cap.",
        "TOOL_CALLS": "It waits for the results of tools.",
        "CONTENT_FILTER": "The provider's content filter stopped it.",
        "CANCELLED": "The call was cancelled.",
    },
)
describe_enum(
    RestartReason,
    description="How a stream broke after a part of its answer was shown.",
    values={
        "CUT": "The connection ended before the answer did.",
        "STALLED": "Nothing more came.",
        "MALFORMED": "Something came that could not be read.",
        "PROVIDER_ERROR": "The provider reported an error.",
    },
)


@describes(messages.ToolCall, description="A call of a tool that the model asks for.")
class ToolCall:
    id: ID = field(description="The model's own id of this call; the result names it.")
    name: str = field(description="Name of the tool, as it was given.")
    arguments: str = field(
        description='JSON text, as the model wrote it, such as `{"city": "Oslo"}`. The model may have written other text.'
    )
    provider_state = strawberry.field(
        resolver=resolve.provider_state,
        graphql_type=JSON | None,
        description="Opaque fields of the provider, such as a thought signature. Pass them back with the tool call.",
    )


CompletionProblem: TypeAlias = Annotated[
    BudgetExceeded | RateLimited | ProvidersFailed | InvalidInput | Conflict | NotFound | CursorExpired,
    strawberry.union("CompletionProblem", description="Why a completion failed or cannot be shown."),
]


@describes(completions.Completion, description="One call of a language model: the request, the answer, and the cost.")
class Completion(Node):
    status: CompletionStatus = field(description="How far it has come.")
    text: str | None = field(description="The text of the answer. Null if there is none or it is no longer kept.")
    reasoning = strawberry.field(
        resolver=resolve.reasoning,
        graphql_type=JSON | None,
        description="Opaque blocks. Pass them back with the next message of a tool loop. They hold the provider state too.",
    )
    provider_state = strawberry.field(
        resolver=resolve.provider_state,
        graphql_type=JSON | None,
        description="Opaque fields that the provider put beside its answer. Pass them back with the next message of a tool loop.",
    )
    tool_calls: list[ToolCall] = field(description="Tools that the model asks for. Send their results in the next call.")
    finish_reason: FinishReason | None = field(description="Why the model stopped; null until it has.")
    problem: CompletionProblem | None = field(description="Why it failed; null otherwise.")
    notes: list[str] = field(
        description="What was changed in the request or the answer, such as a parameter that the model does not take. If "
        "the call was cancelled because its API key was revoked, a note says so."
    )
    requested_model: str | None = field(description="The model as the call named it. Null if it named none.")
    route: str | None = field(description="Name of the route, such as `default`. Null if the call named a target.")
    output_cap_tokens: int | None = field(description="The output cap that was sent to the provider.")
    capped_by_budget: bool = field(
        description="True if a budget lowered the cap. A finish reason LENGTH is then due to the budget."
    )
    provider: str | None = field(description="The provider that answered. Null until one has.")
    model: str | None = field(description="The model that answered; null until one has.")
    usage: TokenUsage | None = field(description="Null until known.")
    cost_usd: Decimal | None = field(description="All attempts together. Null if a price is unknown.")
    cache_key: str | None = field(
        description="The name of its stored answer, for `cacheInvalidate`. Null unless the call asked for the cache."
    )
    cache: CacheHit | None = field(description="Null on a miss.")
    attempts: list[Attempt] = field(description="Every target that was tried or skipped, in order.")
    latency_ms: float | None = field(description="From the call's arrival to its end; null until then.")
    overhead_ms: float | None = field(description="Time spent in this service, without the time of the providers.")
    first_token_ms: float | None = field(description="From the call's arrival to the first token. Null if it was not streamed.")
    tenant: str = field(description="Who is charged.")
    agent: str | None = field(description="Which of the tenant's agents called.")
    labels: list[Label] = field(description="Labels of the call.")
    created_at: datetime = field(description="When the call arrived.")
    finished_at: datetime | None = field(description="When it ended; null while it runs.")


CompletionCreateResult: TypeAlias = Annotated[
    Completion | BudgetExceeded | RateLimited | ProvidersFailed | InvalidInput | Conflict,
    strawberry.union("CompletionCreateResult", description="The whole answer, or the reason why there is none."),
]

CompletionStartResult: TypeAlias = Annotated[
    Completion | BudgetExceeded | RateLimited | InvalidInput | Conflict,
    strawberry.union("CompletionStartResult", description="The accepted completion, or the reason why it was refused."),
]
CompletionCancelResult: TypeAlias = Annotated[
    Completion | NotFound,
    strawberry.union("CompletionCancelResult", description="The completion as it ended, or NotFound."),
]


@describes(completion_events.CompletionStarted, description="The call was accepted.")
class CompletionStarted(StreamEvent):
    completion_id: ID = field(description="The id by which it can be watched, cancelled and fetched.")


@describes(completion_events.CompletionDelta, description="The next words of the answer.")
class CompletionDelta(StreamEvent):
    text: str = field(description="Append it to the text so far.")


@describes(
    completion_events.ReasoningDelta,
    description="The next words of the model's reasoning. Only in the stream of a call with `streamReasoning: true`.",
)
class ReasoningDelta(StreamEvent):
    text: str = field(description="Append it to the reasoning so far. It is no part of the answer.")


@describes(completion_events.ToolCallDelta, description="The next piece of a tool call.")
class ToolCallDelta(StreamEvent):
    tool_call_id: ID = field(description="Which of the answer's tool calls it belongs to.")
    name: str | None = field(description="Name of the tool, in the first piece of a call. Null in later pieces.")
    arguments_delta: str = field(description="JSON text. Append it to the arguments so far.")


@describes(
    completion_events.CompletionRerouted,
    description="A target failed before any of its content was shown. The next target is being tried.",
)
class CompletionRerouted(StreamEvent):
    attempt: Attempt = field(description="The failed attempt.")


@describes(
    completion_events.CompletionRestarted,
    description="The stream broke and the answer begins anew. Discard all text, reasoning and tool calls that came before this "
    "event. Only in the stream of a call with `restart: true`.",
)
class CompletionRestarted(StreamEvent):
    attempt: Attempt = field(description="The attempt that broke. It stays charged.")
    reason: RestartReason = field(description="How it broke.")


@describes(completion_events.CompletionFinished, description="The answer is complete and its cost is in the ledger.")
class CompletionFinished(StreamEvent):
    completion: Completion = field(description="The completion with the whole answer.")


@describes(completion_events.CompletionFailed, description="What was streamed is not a whole answer.")
class CompletionFailed(StreamEvent):
    problem: CompletionProblem = field(description="Why.")
    partial: Completion | None = field(description="The text so far and its cost. Null if nothing was started.")


@describes(completion_events.CompletionCancelled, description="Stopped on request.")
class CompletionCancelled(StreamEvent):
    completion: Completion = field(description="The completion with the partial answer, which stays charged.")


CompletionEvent: TypeAlias = Annotated[
    CompletionStarted
    | CompletionDelta
    | ReasoningDelta
    | ToolCallDelta
    | CompletionRerouted
    | CompletionRestarted
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
        description="Fetch a completion of the caller's tenant by its id. Null if there is none.",
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
        description="Start a completion and return at once. Watch it with completionEvents.",
    )
    completion_cancel = strawberry.field(
        resolver=resolve.completion_cancel,
        graphql_type=CompletionCancelResult | None,
        description="Cancel a running completion. What was produced so far stays charged. Returns the completion as it ended.",
    )


@strawberry.type
class CompletionSubscriptions:
    completion_events = strawberry.field(
        resolver=resolve.completion_events,
        is_subscription=True,
        graphql_type=CompletionEvent,
        description="Events of one completion, from the first one or after a cursor. Ends after the finished or failed event.",
    )
    completion_stream = strawberry.field(
        resolver=resolve.completion_stream,
        is_subscription=True,
        graphql_type=CompletionEvent,
        description="Start and watch in one operation. A repeat with the same idempotency key joins the running stream.",
        metadata={"spends": True},
    )
