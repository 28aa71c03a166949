"""The errors that callers see: a closed list of codes, and one masked sentence for every unexpected error.

A message is shown only if it was written for the caller: it is about the document, or we raised the error by name. Every other
error is INTERNAL, with an id that is also in the log.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from graphql import GraphQLError

from app.domain.errors import (
    DeadlineExceeded,
    Forbidden,
    LimitExceeded,
    Overloaded,
    Refused,
    StoreBusy,
    StoreUnavailable,
    Unauthenticated,
)
from app.domain.problems import InvalidInput
from app.web.error_body import FormattedError, error_body, format_error

logger = logging.getLogger(__name__)


class Code(StrEnum):
    GRAPHQL_PARSE_FAILED = "GRAPHQL_PARSE_FAILED"
    GRAPHQL_VALIDATION_FAILED = "GRAPHQL_VALIDATION_FAILED"
    BAD_USER_INPUT = "BAD_USER_INPUT"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    FORBIDDEN = "FORBIDDEN"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    OVERLOADED = "OVERLOADED"
    TIMEOUT = "TIMEOUT"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    NOT_ACCEPTABLE = "NOT_ACCEPTABLE"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    INTERNAL = "INTERNAL"


class RequestFailed(Exception):
    """The request failed: nothing was executed, or no result can be shown. If `in_document` is True, `application/json` answers
    with 200."""

    def __init__(
        self,
        errors: Sequence[FormattedError],
        status: int,
        *,
        in_document: bool = False,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(str(errors[0].get("message")))
        self.errors = list(errors)
        self.status = status
        self.in_document = in_document
        self.headers = tuple(headers)

    @property
    def payload(self) -> dict[str, object]:
        return error_body(self.errors)


@dataclass(frozen=True, slots=True)
class Description:
    """How one error is shown, and the HTTP status if it is the whole answer."""

    code: Code
    message: str
    status: int
    extensions: dict[str, object] = field(default_factory=dict)
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def formatted(self) -> FormattedError:
        return format_error(self.code.value, self.message, **self.extensions)


def failure(code: Code, message: str, status: int, **extensions: object) -> RequestFailed:
    return RequestFailed([Description(code, message, status, extensions).formatted()], status)


def failed_by(error: Exception, request_id: str) -> RequestFailed:
    """The failure of a whole request because of an error before or instead of a result."""
    description = describe(error, request_id)
    return RequestFailed(
        [description.formatted()],
        description.status,
        headers=description.headers,
        in_document=isinstance(error, LimitExceeded) and description.status == 400,
    )


def describe(error: Exception, request_id: str) -> Description:
    known = _known(error)
    if known is not None:
        return known
    error_id = uuid.uuid4().hex
    logger.error("unexpected error", exc_info=error, extra={"error_id": error_id, "request_id": request_id})
    return Description(Code.INTERNAL, "Something went wrong on our side; please quote the errorId.", 500, {"errorId": error_id})


def _known(error: Exception) -> Description | None:
    match error:
        case Unauthenticated():
            text = str(error) or "the key is missing, wrong, expired or revoked"
            return Description(Code.UNAUTHENTICATED, text, 401, headers=((b"www-authenticate", b'Bearer realm="greenlang"'),))
        case Forbidden():
            return Description(Code.FORBIDDEN, str(error) or "the key does not have this right", 403)
        case LimitExceeded():
            allowed: dict[str, object] = {"limit": error.limit, "had": error.had, "allowed": error.allowed}
            return Description(Code.LIMIT_EXCEEDED, str(error), 400, allowed)
        case Overloaded() | StoreBusy():
            seconds = str(-(-error.retry_after_ms // 1000)).encode()
            wait: dict[str, object] = {"retryAfterMs": error.retry_after_ms}
            return Description(Code.OVERLOADED, str(error), 503, wait, ((b"retry-after", seconds),))
        case DeadlineExceeded():
            return Description(Code.TIMEOUT, str(error) or "the deadline has passed", 504)
        case StoreUnavailable():
            return Description(Code.STORE_UNAVAILABLE, str(error), 503)
        case Refused(reason=InvalidInput() as reason):
            at: dict[str, object] = {} if reason.path is None else {"inputPath": list(reason.path)}
            return Description(Code.BAD_USER_INPUT, reason.message, 400, at)
        case _:
            return None


def format_document_error(error: GraphQLError, code: Code) -> FormattedError:
    """An error of the document or its variables. Its message is shown, because it was written for the caller."""
    formatted = format_error(code.value, error.message)
    if error.locations:
        formatted["locations"] = [{"line": at.line, "column": at.column} for at in error.locations]
    return formatted


def format_field_error(error: GraphQLError, request_id: str) -> FormattedError:
    """An error while a field was resolved. Named errors keep their messages, all others are masked."""
    cause = error.original_error
    if _is_argument_error(error):
        formatted = Description(Code.BAD_USER_INPUT, error.message, 400).formatted()
    else:
        formatted = describe(cause if isinstance(cause, Exception) else error, request_id).formatted()
    if error.locations:
        formatted["locations"] = [{"line": at.line, "column": at.column} for at in error.locations]
    if error.path is not None:
        formatted["path"] = error.path
    _drop_tracebacks(error)
    return formatted


def _drop_tracebacks(error: BaseException | None) -> None:
    """Tracebacks hold frames, and frames hold the error. Without this, all data of the request would stay until the garbage
    collector's next full run."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # causes may form a cycle
        seen.add(id(error))
        error.__traceback__ = None
        error = (error.original_error if isinstance(error, GraphQLError) else None) or error.__cause__ or error.__context__


def _is_argument_error(error: GraphQLError) -> bool:
    """graphql-core sets the node only if an argument could not be read. It is missing for a result that does not fit."""
    cause = error.original_error
    return isinstance(cause, GraphQLError) and bool(cause.nodes)
