"""Why a door refuses a request: one table for all protocols. Each door writes it in its own form.

The gateway has retried already what can be retried, so a client must not repeat it, except if time alone helps.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.costs.budgets import BudgetExceeded
from app.domain.errors import (
    DeadlineExceeded,
    Forbidden,
    Overloaded,
    Refused,
    StoreBusy,
    StoreUnavailable,
    Unauthenticated,
)
from app.domain.problems import Conflict, InvalidInput, ProblemCode
from app.graphql.errors import RequestFailed, failed_by
from app.llm.routing import ProvidersFailed, RateLimited

_NO_MODEL = frozenset({ProblemCode.NO_ROUTE, ProblemCode.UNPRICED_MODEL})
_BAD_REQUEST, _TOO_MANY, _NOT_FOUND = 400, 429, 404


@dataclass(frozen=True, slots=True)
class Failure:
    """`kind` and `code` are words of OpenAI's API. `field` is the wrong field, in the names of the protocol. `seconds` is when a
    repeat may help; None if it will not, and then the client must not try."""

    status: int
    kind: str
    code: str
    message: str
    field: str | None = None
    seconds: float | None = None
    extra: tuple[tuple[str, str], ...] = ()

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        if self.seconds is None:
            return [(b"x-should-retry", b"false")]
        return [(b"retry-after", str(max(1, round(self.seconds))).encode())]


class DoorFailed(Exception):
    """Raised with what is to be answered."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def failure_of(error: Exception, request_id: str) -> Failure:
    """An unexpected error becomes one masked sentence and a log entry."""
    match error:
        case DoorFailed():
            return error.failure
        case Refused():
            return failure_of_reason(error.reason)
        case Unauthenticated() | Forbidden():
            return _of_key(error)
        case Overloaded() | StoreBusy():
            return Failure(503, "server_error", "overloaded", str(error), seconds=error.retry_after_ms / 1000)
        case StoreUnavailable():
            return Failure(503, "server_error", "store_unavailable", str(error), seconds=1)
        case DeadlineExceeded():
            return Failure(504, "server_error", "timeout", str(error) or "The deadline has passed.")
        case RequestFailed():
            code = "request_too_large" if error.status == 413 else "invalid_request"
            return Failure(error.status, "invalid_request_error", code, str(error))
    return Failure(500, "server_error", "internal_error", str(failed_by(error, request_id)))


def _of_key(error: Unauthenticated | Forbidden) -> Failure:
    if isinstance(error, Forbidden):
        return Failure(403, "permission_error", "forbidden", str(error) or "The key does not have this right.")
    return Failure(401, "invalid_request_error", "invalid_api_key", "The key is missing, wrong, expired or revoked.")


def failure_of_reason(reason: object) -> Failure:
    match reason:
        case InvalidInput() if reason.code in _NO_MODEL:
            return Failure(_NOT_FOUND, "invalid_request_error", "model_not_found", reason.message, "model")
        case InvalidInput():
            return Failure(_BAD_REQUEST, "invalid_request_error", _code(reason.code), reason.message, field_of(reason.path))
        case BudgetExceeded():
            named = (("budget", reason.budget.name),)
            return Failure(402, "insufficient_quota", "budget_exceeded", reason.message, extra=named)
        case RateLimited():
            seconds = reason.retry_after.total_seconds()
            return Failure(_TOO_MANY, "rate_limit_error", "rate_limit_exceeded", reason.message, seconds=seconds)
        case ProvidersFailed():
            return _providers_failed(reason)
        case Conflict():
            return Failure(409, "invalid_request_error", _code(reason.code), reason.message)
        case _:
            message = str(getattr(reason, "message", "The call was refused."))
            return Failure(_BAD_REQUEST, "invalid_request_error", "refused", message)


def _providers_failed(reason: ProvidersFailed) -> Failure:
    if reason.code is ProblemCode.CONTEXT_TOO_LONG:
        return Failure(_BAD_REQUEST, "invalid_request_error", "context_length_exceeded", reason.message, "messages")
    if reason.code is ProblemCode.CONTENT_FILTERED:
        return Failure(_BAD_REQUEST, "invalid_request_error", "content_filter", reason.message)
    tried = ", ".join(f"{each.provider}/{each.model}: {each.outcome.value}" for each in reason.attempts)
    status = 504 if reason.code is ProblemCode.TIMEOUT else 502
    return Failure(status, "server_error", _code(reason.code), reason.message, extra=(("attempts", tried),) if tried else ())


_FIELDS = {
    "maxOutputTokens": "max_completion_tokens",
    "reasoningEffort": "reasoning_effort",
    "responseFormat": "response_format",
    "toolChoice": "tool_choice",
    "topP": "top_p",
    "parallelToolCalls": "parallel_tool_calls",
    "serviceTier": "service_tier",
    "texts": "input",
    "agent": "x-greenlang-agent",
    "labels": "x-greenlang-label",
    "timeoutMs": "x-greenlang-timeout-ms",
    "idempotencyKey": "idempotency-key",
}


def field_of(path: tuple[str, ...] | None) -> str | None:
    """The first steps of a path in the names of the protocol, such as `messages[0]`."""
    if not path:
        return None
    if path[0] == "providerOptions":
        return path[-1]
    name = _FIELDS.get(path[0], path[0])
    return f"{name}[{path[1]}]" if len(path) > 1 and path[1].isdecimal() else name


def _code(code: ProblemCode) -> str:
    return code.value.lower()
