"""Providers, their models and the routes over them."""

from __future__ import annotations

from strawberry import field

from app.llm import routing
from schema.describes import describes
from schema.problems import Problem
from schema.values import Attempt


@describes(routing.RateLimited, description="A limiter had no room within the queue's timeout.")
class RateLimited(Problem):
    retry_after_ms: int = field(description="When to come back, in milliseconds, such as 1200.")
    scope: str = field(description="Whose limit it is: a key's, a provider's or a model's.")


@describes(
    routing.ProvidersFailed,
    description="Every target failed, or the failure is one that no other target can mend (CONTENT_FILTERED, CONTEXT_TOO_LONG, "
    "SCHEMA_MISMATCH).",
)
class ProvidersFailed(Problem):
    attempts: list[Attempt] = field(description="Every target tried or passed over, in order.")
    retryable: bool = field(description="True where the same call may succeed later.")
