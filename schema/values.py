"""Small values that several types use."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import strawberry
from strawberry import ID, field

from app.domain import attempts, ids, usage
from app.domain.attempts import AttemptOutcome
from app.domain.problems import ProblemCode
from resolvers.inputs.enums import describe_enum
from schema.describes import describes

describe_enum(
    AttemptOutcome,
    description="How one attempt at one target ended.",
    values={
        "SUCCEEDED": "The target answered.",
        "FAILED": "The target failed, or its answer cannot be used.",
        "TIMED_OUT": "The target did not answer, or stopped answering, within the time limit.",
        "RATE_LIMITED": "The provider refused the call because of its rate limit.",
        "CANCELLED": "The call was cancelled while the target was working.",
        "SKIPPED_OPEN_CIRCUIT": "Not tried: the target failed too often recently.",
        "SKIPPED_LIMIT": "Not tried: the target's rate limit had no room in time.",
        "SKIPPED_BUDGET": "Not tried: a budget cannot pay for this target.",
    },
)


@strawberry.interface(description="An object with an id, which `node` can fetch.")
class Node:
    id: ID = field(
        description="Opaque and never reused. Its first letters show the type, as in `cmp_0199f2c1a4b87c3d9e1f5a6b7c8d9e0f`."
    )


@describes(ids.Deleted, description="A deleted object.")
class Deleted:
    id: ID = field(description="Its id, which is never reused.")


@describes(usage.Label, description="A key and value on a call or a budget, by which costs can be grouped.")
class Label:
    key: str = field(description="Key, such as `team`.")
    value: str = field(description="Value, such as `search`.")


@describes(
    usage.TokenUsage,
    description="Tokens of a call. inputTokens includes cachedInputTokens and cacheWriteTokens; outputTokens includes "
    "reasoningTokens.",
)
class TokenUsage:
    input_tokens: int = field(description="Tokens that were sent, such as 1200.")
    cached_input_tokens: int = field(description="Part of inputTokens that the provider read from its prompt cache.")
    cache_write_tokens: int = field(description="Part of inputTokens that the provider wrote to its prompt cache.")
    output_tokens: int = field(description="Tokens that the model wrote, such as 350.")
    reasoning_tokens: int = field(description="Part of outputTokens that the model spent on thinking.")
    total_tokens: int = field(description="inputTokens and outputTokens together.")
    confirmed: bool = field(description="False if the figures are estimates because the provider's figures never came.")


@describes(attempts.Attempt, description="One attempt at one target.")
class Attempt:
    id: ID = field(description="Such as `att_0199f2c1a4b87c3d9e1f5a6b7c8d9e0f`.")
    provider: str = field(description="Name of the provider, such as `anthropic`.")
    model: str = field(description="Name of the model, such as `claude-sonnet-5-5`.")
    outcome: AttemptOutcome = field(description="How it ended.")
    status_code: int | None = field(description="The provider's HTTP status, such as 529. Null if none came.")
    reason: ProblemCode | None = field(description="Category of the failure; never the provider's raw text.")
    provider_request_id: str | None = field(description="The provider's own id of the request, for its support.")
    started_at: datetime = field(description="When it began.")
    latency_ms: float = field(description="How long it took, in milliseconds.")
    usage: TokenUsage | None = field(description="Null if nothing was billed or known.")
    cost_usd: Decimal | None = field(description='Cost in US dollars, such as `"0.0042"`. Null if the price is unknown.')
