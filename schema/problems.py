"""Failures that the caller can act on, returned as data in place of the result."""

from __future__ import annotations

import strawberry
from strawberry import field

from app.domain import problems
from app.domain.problems import ProblemCode
from resolvers.inputs.enums import describe_enum
from schema.describes import describes

describe_enum(
    ProblemCode,
    description="The kind of a problem or a failed attempt, for programs. `message` is for people.",
    values={
        "BUDGET_EXCEEDED": "A budget cannot pay for the call.",
        "CANCELLED": "The call was cancelled before it was answered.",
        "CIRCUIT_OPEN": "The target failed too often recently and gets time to recover.",
        "CONFLICT": "The request conflicts with existing data, such as a second budget with the same name.",
        "CONTENT_FILTERED": "The provider refused the content. No other target is tried.",
        "CONTEXT_TOO_LONG": "The messages do not fit into the model's context window.",
        "CURSOR_EXPIRED": "The requested events are no longer kept.",
        "IDEMPOTENCY_MISMATCH": "The idempotency key was used before, with another input.",
        "IN_PROGRESS": "The same work is already running.",
        "INVALID_INPUT": "A value of the input is not valid. `path` says which.",
        "NOT_FOUND": "There is no object with this id or name that the caller may see.",
        "NO_ROUTE": "No configured target can serve the call.",
        "PROVIDER_ERROR": "The provider failed or could not be reached.",
        "RATE_LIMITED": "A rate limit had no room in time.",
        "SCHEMA_MISMATCH": "The answer does not match the requested JSON Schema.",
        "TIMEOUT": "The deadline passed.",
        "UNPRICED_MODEL": "A budget covers the call, and the model's price is unknown.",
    },
)


@strawberry.interface(
    description="A failure the caller can act on, returned as data. Wrong documents, missing rights and bugs are top-level "
    "errors with `extensions.code` instead."
)
class Problem:
    code: ProblemCode = field(description="The kind of failure, for programs.")
    message: str = field(description="A sentence for people; wording may change.")


@describes(
    problems.InvalidInput,
    description="A value of the input is not valid. Nothing was done. Also UNPRICED_MODEL (a budgeted scope and "
    "no price) and NO_ROUTE (nothing configured can serve the call).",
)
class InvalidInput(Problem):
    path: list[str] | None = field(description='Path of the field at fault, such as `["messages", "0", "text"]`.')


@describes(problems.NotFound, description="There is no object with this id or name that the caller may see.")
class NotFound(Problem):
    pass


@describes(problems.Conflict, description="The request conflicts with existing data. Nothing was changed.")
class Conflict(Problem):
    pass


@describes(problems.CursorExpired, description="The requested events are no longer kept.")
class CursorExpired(Problem):
    pass
