"""Problems that a caller can act on, as data. The problems of one domain are defined there; these belong to all."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ProblemCode(Enum):
    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"
    CANCELLED = "CANCELLED"
    CIRCUIT_OPEN = "CIRCUIT_OPEN"
    CONFLICT = "CONFLICT"
    CONTENT_FILTERED = "CONTENT_FILTERED"
    CONTEXT_TOO_LONG = "CONTEXT_TOO_LONG"
    CURSOR_EXPIRED = "CURSOR_EXPIRED"
    IDEMPOTENCY_MISMATCH = "IDEMPOTENCY_MISMATCH"
    IN_PROGRESS = "IN_PROGRESS"
    INVALID_INPUT = "INVALID_INPUT"
    NOT_FOUND = "NOT_FOUND"
    NO_ROUTE = "NO_ROUTE"
    PROVIDER_ERROR = "PROVIDER_ERROR"
    RATE_LIMITED = "RATE_LIMITED"
    SCHEMA_MISMATCH = "SCHEMA_MISMATCH"
    TIMEOUT = "TIMEOUT"
    UNPRICED_MODEL = "UNPRICED_MODEL"


@dataclass(frozen=True, slots=True)
class InvalidInput:
    """The codes UNPRICED_MODEL and NO_ROUTE use it too. `path` leads to the wrong field, in the input's (camelCase) names."""

    message: str
    path: tuple[str, ...] | None = None
    code: ProblemCode = ProblemCode.INVALID_INPUT


@dataclass(frozen=True, slots=True)
class NotFound:
    message: str
    code: ProblemCode = ProblemCode.NOT_FOUND


def no_such(what: str) -> NotFound:
    """`what` is a word that callers know, such as `budget`."""
    return NotFound(f"There is no such {what}.")


@dataclass(frozen=True, slots=True)
class Conflict:
    message: str
    code: ProblemCode = ProblemCode.CONFLICT


@dataclass(frozen=True, slots=True)
class CursorExpired:
    message: str
    code: ProblemCode = ProblemCode.CURSOR_EXPIRED
