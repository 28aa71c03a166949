"""How one try failed, told by status, the provider's own error code and the type of the exception, once for both adapters.

A provider's raw text never leaves this file: it can hold the prompt or a part of a key. Text decides in one place only: an
input that is too long or was filtered has, at some providers, the status and type of any other bad request.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

import aiohttp
import httpx2

from app.errors import FailureKind, ProviderError
from app.usage import RateLimitReport

_NO_CONNECTION = (aiohttp.ConnectionTimeoutError, httpx2.PoolTimeout)
_UNSENT = (aiohttp.ClientConnectorError, *_NO_CONNECTION)
_BROKEN = (
    aiohttp.ServerDisconnectedError,
    aiohttp.ClientConnectionResetError,
    aiohttp.ClientOSError,
    aiohttp.ClientPayloadError,
    aiohttp.SocketTimeoutError,
    ConnectionError,
)
_LONGEST_RETRY_AFTER = 86_400.0
_LARGEST_COUNT = 2**53

_BY_CODE = {
    "context_length_exceeded": FailureKind.CONTEXT_TOO_LONG,
    "exceed_context_size_error": FailureKind.CONTEXT_TOO_LONG,
    "content_filter": FailureKind.CONTENT_FILTERED,
    "content_policy_violation": FailureKind.CONTENT_FILTERED,
    "insufficient_quota": FailureKind.KEY_REFUSED,
    "model_not_found": FailureKind.MODEL_NOT_FOUND,
}
_BY_TYPE = {
    "authentication_error": FailureKind.KEY_REFUSED,
    "billing_error": FailureKind.KEY_REFUSED,
    "permission_error": FailureKind.KEY_REFUSED,
    "not_found_error": FailureKind.MODEL_NOT_FOUND,
    "invalid_request_error": FailureKind.BAD_REQUEST,
    "rate_limit_error": FailureKind.RATE_LIMITED,
    "rate_limit_exceeded": FailureKind.RATE_LIMITED,
    "requests": FailureKind.RATE_LIMITED,
    "tokens": FailureKind.RATE_LIMITED,
    "overloaded_error": FailureKind.OVERLOADED,
    "slow_down": FailureKind.OVERLOADED,
}
_BY_STATUS = {
    401: FailureKind.KEY_REFUSED,
    402: FailureKind.KEY_REFUSED,
    403: FailureKind.KEY_REFUSED,
    404: FailureKind.MODEL_NOT_FOUND,
    408: FailureKind.SERVER_ERROR,
    409: FailureKind.SERVER_ERROR,
    413: FailureKind.CONTEXT_TOO_LONG,
    429: FailureKind.RATE_LIMITED,
    503: FailureKind.OVERLOADED,
    529: FailureKind.OVERLOADED,
}
_BY_TEXT = {
    "prompt is too long": FailureKind.CONTEXT_TOO_LONG,
    "maximum context length": FailureKind.CONTEXT_TOO_LONG,
    "exceeds the available context size": FailureKind.CONTEXT_TOO_LONG,
    "content filtering policy": FailureKind.CONTENT_FILTERED,
}
_TEXT_READ = 2000


def classify(status: int | None, error_type: str | None, code: str | None, message: str | None) -> FailureKind:
    """`status` is None, or 200, for an error inside a stream; then the type decides."""
    for word in (code, error_type):
        if word in _BY_CODE:
            return _BY_CODE[word]
    if status is not None and status >= 300:
        if status in _BY_STATUS:
            return _BY_STATUS[status]
        return _bad_request(message) if 400 <= status < 500 else FailureKind.SERVER_ERROR
    return next((_BY_TYPE[word] for word in (error_type, code) if word in _BY_TYPE), FailureKind.SERVER_ERROR)


def _bad_request(message: str | None) -> FailureKind:
    said = (message or "")[:_TEXT_READ].lower()
    return next((kind for text, kind in _BY_TEXT.items() if text in said), FailureKind.BAD_REQUEST)


def error_words(body: object) -> tuple[str | None, str | None, str | None, str | None]:
    """Type, code, message and parameter of an error body, `{"error": {…}}` or the inner object alone; None where absent."""
    if isinstance(body, Mapping) and isinstance(body.get("error"), Mapping):
        body = body["error"]
    if not isinstance(body, Mapping):
        return None, None, None, None
    return _text(body.get("type")), _text(body.get("code")), _text(body.get("message")), _text(body.get("param"))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def stream_failure(error: object, provider_request_id: str | None) -> ProviderError:
    """An error object in the midst of a stream, whose HTTP status was 200. Compatible servers put a status in `code`."""
    error_type, code, message, _ = error_words(error)
    raw_code = error.get("code") if isinstance(error, Mapping) else None
    status = raw_code if isinstance(raw_code, int) and 400 <= raw_code < 600 else None
    kind = classify(status, error_type, code, message)
    return ProviderError(kind, status_code=status or 200, provider_request_id=provider_request_id)


def transport_failure(error: BaseException) -> FailureKind:
    """The kind behind an exception without a response, found by type along its chain of causes.

    The chain matters: one SDK's aiohttp backend reports a reset connection as a connect timeout.
    """
    for cause in _causes(error):
        if isinstance(cause, _NO_CONNECTION):
            return FailureKind.CONNECT_TIMEOUT
        if isinstance(cause, aiohttp.SocketTimeoutError):
            return FailureKind.IDLE_TIMEOUT
        if isinstance(cause, (aiohttp.ClientResponseError, httpx2.DecodingError)):
            return FailureKind.MALFORMED
    return FailureKind.CONNECTION


def may_have_arrived(error: BaseException) -> bool:
    """Whether a request that was never answered may have reached the provider: a connection had come about, and broke."""
    causes = list(_causes(error))
    return not any(isinstance(cause, _UNSENT) for cause in causes) and any(isinstance(cause, _BROKEN) for cause in causes)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def retry_after(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """`retry-after-ms`, or `retry-after` in seconds or as a date; None where absent or not understood; at most a day."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _wait(milliseconds / 1000)
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None:
        return _wait(seconds)
    if text is None:
        return None
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return _wait((at.replace(tzinfo=at.tzinfo or now.tzinfo) - now).total_seconds())


def _wait(seconds: float) -> timedelta:
    return timedelta(seconds=min(max(seconds, 0.0), _LONGEST_RETRY_AFTER))


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def rate_limits(headers: Mapping[str, str], requests: str, tokens: tuple[str, ...]) -> RateLimitReport | None:
    """What the named headers say is left, the smallest of `tokens`; None where they say nothing."""
    requests_left = _count(headers.get(requests))
    tokens_left = [count for name in tokens if (count := _count(headers.get(name))) is not None]
    if requests_left is None and not tokens_left:
        return None
    return RateLimitReport(requests_left, min(tokens_left, default=None))


def _count(text: str | None) -> int | None:
    value = _number(text)
    return int(min(max(value, 0.0), _LARGEST_COUNT)) if value is not None else None
