"""How one attempt failed. What the provider says and the type of the exception decide it, once for both adapters.

A provider's raw text never leaves this file and the table of failures, because it can hold the prompt or a part of a key.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

import aiohttp
import httpx2

from app.domain.errors import FailureKind, ProviderError
from app.domain.usage import RateLimitReport
from app.llm.failure_table import look_up
from app.llm.quoted_words import quoted_error
from app.settings import ProviderKindName

_log = logging.getLogger(__name__)
_NO_CONNECTION = (aiohttp.ConnectionTimeoutError, httpx2.PoolTimeout)
_UNSENT = (
    *_NO_CONNECTION,
    aiohttp.ClientConnectorError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    httpx2.UnsupportedProtocol,
    httpx2.LocalProtocolError,
)
"""Errors that an HTTP client raises before a request can have reached the provider. Every other error may come after that."""
_UNREADABLE = (aiohttp.ClientResponseError, httpx2.DecodingError, ValueError)
"""An answer came, but it was not valid HTTP."""
_MAX_RETRY_AFTER_SECONDS = 86_400.0
_MAX_COUNT = 2**53
_WRAPPERS = ("error", "errors", "detail", "base_resp")
_MAX_DEPTH = 4


@dataclass(frozen=True, slots=True)
class ErrorWords:
    """What an error body says; None for each thing it does not say. `status` is a status inside the body."""

    error_type: str | None = None
    code: str | None = None
    message: str | None = None
    parameter: str | None = None
    status: int | None = None


def error_words(body: object) -> ErrorWords:
    """Reads `{"error": {…}}`, the inner object alone, a list of one object (Gemini), `{"detail": …}` (FastAPI), `{"errors":
    […]}` (Cloudflare), `{"base_resp": {…}}` (MiniMax), one of these inside another, or a text."""
    for _ in range(_MAX_DEPTH):
        inner = _inner(body)
        if inner is None:
            break
        body = inner
    if isinstance(body, str):
        return _with_quoted(ErrorWords(message=body))
    if not isinstance(body, Mapping):
        return ErrorWords()
    code = body.get("code", body.get("error_code"))
    words = ErrorWords(
        error_type=_text(body.get("type")) or _text(body.get("error_type")) or _text(body.get("__type")),
        code=_text(code) or _text(body.get("status")),
        message=_message(body),
        parameter=_text(body.get("param")) or _last_name(body.get("loc")),
        status=_status(code),
    )
    return _with_quoted(words)


def _with_quoted(words: ErrorWords) -> ErrorWords:
    """Adds the error of the provider that a gateway quotes in its message."""
    quoted = quoted_error(words.message or "")
    if words.message is None or quoted is None or not tells_failure(quoted):
        return words
    inner = error_words(quoted)
    return ErrorWords(
        error_type=inner.error_type or words.error_type,
        code=inner.code or words.code,
        message=f"{words.message.partition('{')[0]}{inner.message or ''}",
        parameter=inner.parameter or words.parameter,
        status=words.status or inner.status,
    )


def _last_name(place: object) -> str | None:
    """The part of the input that an error names: `["body", "messages", 0]` means the messages."""
    names = [name for name in place if isinstance(name, str) and name != "body"] if isinstance(place, list) else []
    return names[-1] if names else None


def tells_failure(body: Mapping[str, object]) -> bool:
    """Whether a body or event without an answer reports a failure."""
    if "error" in (body.get("object"), body.get("type")) or any(body.get(name) for name in _WRAPPERS):
        return True
    words = error_words(body)
    return words.message is not None and (words.status is not None or words.code is not None or words.error_type is not None)


def _inner(body: object) -> object:
    """Returns what is inside the error's wrapper; None if there is no wrapper."""
    if isinstance(body, list):
        return next((item for item in body if isinstance(item, (Mapping, str))), None)
    if not isinstance(body, Mapping):
        return None
    return next((body[name] for name in _WRAPPERS if isinstance(body.get(name), (Mapping, list, str)) and body[name]), None)


def _message(body: Mapping[str, object]) -> str | None:
    """Returns the message, with the answer of the provider that a gateway quotes (OpenRouter)."""
    said = next((body[name] for name in ("message", "msg", "status_msg") if body.get(name)), None)
    if isinstance(said, (Mapping, list)):
        said = error_words(said).message
    metadata = body.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, Mapping) else None
    texts = [text for text in (said, raw) if isinstance(text, str)]
    return " ".join(texts) if texts else None


def _status(code: object) -> int | None:
    """A status inside the body, as a number or as text."""
    if isinstance(code, str) and code.isascii() and code.isdecimal() and len(code) == 3:
        code = int(code)
    return code if isinstance(code, int) and 400 <= code < 600 else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def stream_failure(error: object, provider_request_id: str | None, kind: ProviderKindName | None = None) -> ProviderError:
    """The failure that an error object reports in an answer with HTTP status 200. Compatible servers put a status in `code`."""
    words = error_words(error)
    failure = look_up(kind, words.status, words.error_type, words.code, words.message, parameter=words.parameter)
    return ProviderError(failure, status_code=words.status or 200, provider_request_id=provider_request_id)


def unforeseen(error: Exception, where: str) -> ProviderError:
    """Turns an exception that no adapter should raise into a failure of the provider or target `where`. The exception's text is
    not logged, because it can hold the prompt or a part of a key."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    line = None if frame is None else f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}"
    _log.error("an adapter raised an unexpected error", extra={"target": where, "error": type(error).__name__, "line": line})
    return ProviderError(FailureKind.UNFORESEEN)


def transport_failure(error: BaseException) -> FailureKind:
    """The kind of failure of an exception without a response. It is found by type, along the chain of causes.

    The chain matters: one SDK's aiohttp backend reports a reset connection as a connect timeout.
    """
    for cause in _causes(error):
        if isinstance(cause, _NO_CONNECTION):
            return FailureKind.CONNECT_TIMEOUT
        if isinstance(cause, aiohttp.SocketTimeoutError):
            return FailureKind.IDLE_TIMEOUT
        if isinstance(cause, _UNREADABLE) and not _is_before_sending(cause):
            return FailureKind.MALFORMED
    return FailureKind.CONNECTION


def may_have_arrived(error: BaseException) -> bool:
    """Whether a request without an answer may have reached the provider: no error came before that."""
    return not any(_is_before_sending(cause) for cause in _causes(error))


def _is_before_sending(cause: BaseException) -> bool:
    """A host's name that cannot be looked up is a bare UnicodeError."""
    return isinstance(cause, _UNSENT) or type(cause) is UnicodeError


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def retry_after(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """Reads `retry-after-ms`, or `retry-after` in seconds or as a date. None if absent or not understood; at most a day."""
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
    return timedelta(seconds=min(max(seconds, 0.0), _MAX_RETRY_AFTER_SECONDS))


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def rate_limits(headers: Mapping[str, str], requests: str, tokens: tuple[str, ...]) -> RateLimitReport | None:
    """What is left according to the named headers, with the smallest number of `tokens`. None if they say nothing."""
    requests_left = _left(headers, requests)
    tokens_left = [count for name in tokens if (count := _left(headers, name)) is not None]
    if requests_left is None and not tokens_left:
        return None
    return RateLimitReport(requests_left, min(tokens_left, default=None))


def _left(headers: Mapping[str, str], name: str) -> int | None:
    """A negative number means that nothing is known. So does a limit of zero."""
    remaining, limit = _number(headers.get(name)), _number(headers.get(name.replace("remaining", "limit")))
    if remaining is None or remaining < 0 or (limit is not None and limit <= 0):
        return None
    return int(min(remaining, _MAX_COUNT))
