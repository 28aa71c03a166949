"""Failures the caller can act on, returned as data beside the thing asked for."""

from __future__ import annotations

import strawberry
from strawberry import field

from app import problems
from app.problems import ProblemCode
from resolvers.inputs.enums import describe_enum
from schema.describes import describes

describe_enum(
    ProblemCode,
    description="What kind of failure a problem or a failed attempt is: for programs, where `message` is for people.",
    values={
        "BUDGET_EXCEEDED": "A budget cannot pay for the call.",
        "CANCELLED": "The call was cancelled before it was answered.",
        "CIRCUIT_OPEN": "The target failed too often of late and is given time to recover.",
        "CONFLICT": "What is asked for contradicts what is there, such as a second budget of the same name.",
        "CONTENT_FILTERED": "The provider refused the content; another target is not tried.",
        "CONTEXT_TOO_LONG": "The messages do not fit into the model's window.",
        "CURSOR_EXPIRED": "The events asked for are no longer kept.",
        "IDEMPOTENCY_MISMATCH": "The idempotency key was used before, with another input.",
        "IN_PROGRESS": "The same work is already running.",
        "INVALID_INPUT": "A value of the input is not acceptable; `path` says which.",
        "NOT_FOUND": "There is nothing by this id or name that the caller may see.",
        "NO_ROUTE": "Nothing that is configured can serve the call.",
        "PROVIDER_ERROR": "The provider failed or could not be reached.",
        "RATE_LIMITED": "A rate limit left no room in the time given.",
        "SCHEMA_MISMATCH": "The answer does not fit the JSON Schema asked for.",
        "TIMEOUT": "The time given ran out.",
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
    description="A value of the input is not acceptable; nothing was done. Also UNPRICED_MODEL (a budgeted scope and no price) "
    "and NO_ROUTE (nothing configured can serve the call).",
)
class InvalidInput(Problem):
    path: list[str] | None = field(description='Path of the field at fault, such as `["messages", "0", "text"]`.')


@describes(problems.NotFound, description="There is nothing by this id or name that the caller may see.")
class NotFound(Problem):
    pass


@describes(problems.Conflict, description="What is asked for contradicts what is there; nothing was done.")
class Conflict(Problem):
    pass


@describes(problems.CursorExpired, description="The events asked for are no longer kept.")
class CursorExpired(Problem):
    pass
