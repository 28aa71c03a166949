"""Every failure that the service raises on purpose.

GreenLangError
├── SettingsError         the configuration is wrong: `path`, and what is allowed
├── Unauthenticated       no key, or one that is wrong, expired or revoked
├── Forbidden             a valid key without the right; ForeignOrigin: a web page that may not connect
├── LimitExceeded         a document or body over a limit: which, had, allowed
├── Overloaded            too much in flight; try again after `retry_after_ms`
├── DeadlineExceeded      the deadline has passed
├── StoreUnavailable      PostgreSQL or Redis is away
│   └── StoreBusy         no connection to it was free for too long; try again after `retry_after_ms`
├── Refused               an expected refusal; `reason` is a frozen dataclass that the caller sees
│   └── RefusedByTarget   one target cannot take the call, another may
└── ProviderError         one try at one target failed: `kind` says how
"""

from __future__ import annotations

from datetime import timedelta
from enum import Enum

from app.domain.usage import RateLimitReport, TokenUsage


class GreenLangError(Exception):
    """Base of every failure raised on purpose."""


class SettingsError(GreenLangError):
    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class RefusedKey(Enum):
    """Why a key is refused. Only operators see the reason, callers do not."""

    MISSING = "missing"
    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Unauthenticated(GreenLangError):
    """`hint` is the public part of the key that was sent; None if the text does not have the form of a key."""

    def __init__(self, message: str = "", reason: RefusedKey = RefusedKey.UNKNOWN, hint: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.hint = hint


class Forbidden(GreenLangError):
    pass


class ForeignOrigin(Forbidden):
    pass


class LimitExceeded(GreenLangError):
    def __init__(self, limit: str, had: int, allowed: int) -> None:
        super().__init__(f"{limit} is {had}; at most {allowed} are allowed")
        self.limit = limit
        self.had = had
        self.allowed = allowed


class Overloaded(GreenLangError):
    def __init__(self, retry_after_ms: int) -> None:
        super().__init__("the server is overloaded; try again later")
        self.retry_after_ms = retry_after_ms


class DeadlineExceeded(GreenLangError):
    pass


class StoreUnavailable(GreenLangError):
    """`consequence` says of a write whether it was done."""

    def __init__(self, store: str, consequence: str = "") -> None:
        super().__init__(f"{store} does not answer; {consequence}" if consequence else f"{store} does not answer")
        self.store = store


class StoreBusy(StoreUnavailable):
    """The store answers, but every connection of this process to it was in use for too long."""

    def __init__(self, store: str, retry_after_ms: int) -> None:
        super().__init__(store)
        self.args = (f"too much waits for {store}; try again later",)
        self.retry_after_ms = retry_after_ms


class Refused(GreenLangError):
    """Raised with the problem as data: a frozen dataclass that is defined in its own domain."""

    def __init__(self, reason: object) -> None:
        super().__init__(type(reason).__name__)
        self.reason = reason


class RefusedByTarget(Refused):
    """The call is right, but this target cannot take it. Another target may."""


class FailureKind(Enum):
    """How one try at a provider failed. ProviderError decides once what follows from each kind.

    NOT_IMPLEMENTED: the server has no such operation. UNSUPPORTED: only this target does not accept something in the call, such
    as images. UNKNOWN_REFUSAL: a 4xx without a known reason. UNFORESEEN: the adapter raised an unexpected exception.
    """

    CONNECTION = "connection"
    CONNECT_TIMEOUT = "connect_timeout"
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    POOL_EXHAUSTED = "pool_exhausted"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    MALFORMED = "malformed"
    TRUNCATED = "truncated"
    KEY_REFUSED = "key_refused"
    MODEL_NOT_FOUND = "model_not_found"
    NOT_IMPLEMENTED = "not_implemented"
    UNSUPPORTED = "unsupported"
    UNKNOWN_REFUSAL = "unknown_refusal"
    UNFORESEEN = "unforeseen"
    BAD_REQUEST = "bad_request"
    CONTEXT_TOO_LONG = "context_too_long"
    CONTENT_FILTERED = "content_filtered"
    SCHEMA_MISMATCH = "schema_mismatch"
    CANCELLED = "cancelled"


_RETRYABLE = frozenset(
    {
        FailureKind.CONNECTION,
        FailureKind.RATE_LIMITED,
        FailureKind.OVERLOADED,
        FailureKind.SERVER_ERROR,
        FailureKind.MALFORMED,
        FailureKind.TRUNCATED,
        FailureKind.NOT_IMPLEMENTED,
    }
)
_FINAL = frozenset(
    {
        FailureKind.BAD_REQUEST,
        FailureKind.CONTENT_FILTERED,
        FailureKind.SCHEMA_MISMATCH,
        FailureKind.CANCELLED,
    }
)
_OTHER_KEY = frozenset({FailureKind.KEY_REFUSED, FailureKind.RATE_LIMITED, FailureKind.MODEL_NOT_FOUND})
_BREAKER = frozenset(
    {
        FailureKind.CONNECTION,
        FailureKind.CONNECT_TIMEOUT,
        FailureKind.FIRST_TOKEN_TIMEOUT,
        FailureKind.IDLE_TIMEOUT,
        FailureKind.OVERLOADED,
        FailureKind.SERVER_ERROR,
        FailureKind.MALFORMED,
        FailureKind.TRUNCATED,
    }
)


_BROKE_OFF = frozenset({FailureKind.CONNECTION, FailureKind.TRUNCATED})


class ProviderError(GreenLangError):
    """One failed try, mapped by type and status in the adapter. The message never holds the provider's raw text or a key.

    `usage` is what the provider billed although the try failed; None if nothing was billed or known. `rate_limits` is what its
    headers say is left. If a request may have arrived and no answer began, `unanswered_seconds` is how long it waited.
    `broke_off`: the answer did not arrive as it was made, and another try may bring it.
    """

    def __init__(
        self,
        kind: FailureKind,
        *,
        status_code: int | None = None,
        retry_after: timedelta | None = None,
        provider_request_id: str | None = None,
        usage: TokenUsage | None = None,
        rate_limits: RateLimitReport | None = None,
        unanswered_seconds: float | None = None,
        broke_off: bool = False,
    ) -> None:
        super().__init__(kind.value if status_code is None else f"{kind.value} ({status_code})")
        self.kind = kind
        self.status_code = status_code
        self.retry_after = retry_after
        self.provider_request_id = provider_request_id
        self.usage = usage
        self.rate_limits = rate_limits
        self.unanswered_seconds = unanswered_seconds
        self.broke_off = broke_off or kind in _BROKE_OFF

    @property
    def retryable(self) -> bool:
        """Whether the same target may be tried again."""
        return self.kind in _RETRYABLE

    @property
    def was_bought(self) -> bool:
        """The provider gave a whole answer, or its figures, and charged it. This target is not tried again."""
        return self.usage is not None and (self.usage.confirmed or not self.broke_off)

    @property
    def concerns_key(self) -> bool:
        """Whether another key of the same provider may succeed."""
        return self.kind in _OTHER_KEY

    @property
    def final(self) -> bool:
        """Whether no other target can succeed (except one with a larger window for CONTEXT_TOO_LONG)."""
        return self.kind in _FINAL

    @property
    def counts_for_breaker(self) -> bool:
        return self.kind in _BREAKER
