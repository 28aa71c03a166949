"""The meaning of error bodies. One table maps provider kind, status, code, type and words to a failure, and names each row's
source.

The first row that matches wins, so the most specific evidence comes first: codes and types, then words, then the status. Words
are the provider's own, in lower case. They are needed because several providers use one status and one type for an exhausted
balance, a model that takes no images and a wrong prompt. docs/failures.md is made from this table.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass

from app.domain.errors import FailureKind
from app.llm.quoted_words import unquoted
from app.settings import ProviderKindName

MAX_WORDS_READ = 2000
"""The number of characters of a message that are read, without its quotes."""
_NOT_OF_THE_INPUT = re.compile(r"key|auth|token\b|account|^model$", re.IGNORECASE)
_NOT_THE_INPUT = frozenset({FailureKind.KEY_REFUSED, FailureKind.RATE_LIMITED, FailureKind.OVERLOADED})
_CLIENT = range(400, 500)
_OWN = frozenset({400, 401, 402, 403, 404, 406, 410, 412, 413, 418, 421, 422, 451})
_INPUT = frozenset({400, 422})
_ANTHROPIC = frozenset({ProviderKindName.ANTHROPIC})
_COMPATIBLE = frozenset({ProviderKindName.OPENAI, ProviderKindName.OPENAI_COMPATIBLE})

_ANTHROPIC_ERRORS = "Anthropic API: errors"
_OPENAI_ERRORS = "OpenAI API: error codes"
_AZURE = "Azure OpenAI: error codes and content filtering"
_GOOGLE = "Google AI: troubleshooting the Gemini API"
_GROQ = "Groq API: error codes"
_HTTP = "RFC 9110, HTTP semantics"


@dataclass(frozen=True, slots=True)
class Row:
    """Every condition that is given must hold. `names` are codes or types of the error and `words` are parts of its message;
    one of each is enough. An error inside a stream has no HTTP status; `streamed` says whether the row also matches such
    errors."""

    failure: FailureKind
    source: str
    names: frozenset[str] = frozenset()
    words: tuple[str, ...] = ()
    statuses: Container[int] | None = None
    kinds: frozenset[ProviderKindName] | None = None
    streamed: bool = True
    blames_input: bool = True

    def fits(
        self, kind: ProviderKindName | None, status: int | None, names: Sequence[str], message: str, *, names_input: bool = False
    ) -> bool:
        if names_input and not self.blames_input:
            return False
        if self.kinds is not None and kind is not None and kind not in self.kinds:
            return False
        if status is None:
            if not self.streamed or not (self.names or self.words):
                return False
        elif self.statuses is not None and status not in self.statuses:
            return False
        if self.names and self.names.isdisjoint(names):
            return False
        return not self.words or any(word in message for word in self.words)


def _named(failure: FailureKind, source: str, *names: str, statuses: Container[int] | None = None) -> Row:
    return Row(failure, source, names=frozenset(names), statuses=statuses)


def _said(failure: FailureKind, source: str, *words: str, statuses: Container[int] = _OWN) -> Row:
    """Words about the account, the key or the server count only if the error names no part of the input."""
    return Row(failure, source, words=words, statuses=statuses, blames_input=failure not in _NOT_THE_INPUT)


def _status(failure: FailureKind, source: str, *statuses: int) -> Row:
    return Row(failure, source, statuses=frozenset(statuses), streamed=False)


_BY_NAME = (
    _named(
        FailureKind.CONTEXT_TOO_LONG,
        f"{_OPENAI_ERRORS}; llama.cpp server",
        "context_length_exceeded",
        "exceed_context_size_error",
    ),
    _named(
        FailureKind.CONTENT_FILTERED,
        f"{_OPENAI_ERRORS}; {_AZURE}; Alibaba Model Studio",
        "content_filter",
        "content_policy_violation",
        "responsibleaipolicyviolation",
        "moderation_blocked",
        "data_inspection_failed",
        "datainspectionfailed",
    ),
    _named(
        FailureKind.KEY_REFUSED,
        f"{_OPENAI_ERRORS}: the account cannot pay, or is closed",
        "insufficient_quota",
        "insufficient_balance",
        "billing_hard_limit_reached",
        "billing_not_active",
        "billing_error",
        "account_deactivated",
        "access_terminated",
        "arrearage",
        "exceeded_current_quota_error",
        "insufficient_user_quota",
        "budget_exceeded",
        "payment_required",
        "organization_restricted",
        "unsupported_country_region_territory",
    ),
    _named(
        FailureKind.KEY_REFUSED,
        f"{_OPENAI_ERRORS}; {_ANTHROPIC_ERRORS}; {_GOOGLE}: the key is wrong or lacks the right",
        "invalid_api_key",
        "incorrect_api_key",
        "invalid_authentication",
        "invalid_organization",
        "mismatched_organization",
        "authentication_error",
        "permission_error",
        "permission_denied",
        "unauthenticated",
        "api_key_invalid",
        "expired_token",
        "invalid_authentication_error",
        "incorrect_api_key_error",
        "permission_denied_error",
        "accessdeniedexception",
        "unrecognizedclientexception",
    ),
    _named(
        FailureKind.RATE_LIMITED,
        f"{_OPENAI_ERRORS}; {_ANTHROPIC_ERRORS}; {_GROQ}: also with 400, 403, 413 and 498",
        "rate_limit_error",
        "rate_limit_exceeded",
        "ratelimitexceeded",
        "requests",
        "tokens",
        "too_many_requests",
        "throttlingexception",
        "rate_limit_reached_error",
        "rate_limited",
        "limit_requests",
        "limit_burst_rate",
        "request_limit_exceeded",
        "queue_exceeded",
        "token_quota_exceeded",
        "too_many_requests_error",
        "servicequotaexceededexception",
        "resource_exhausted",
    ),
    _named(
        FailureKind.MODEL_NOT_FOUND,
        f"{_OPENAI_ERRORS}; {_AZURE}; {_GROQ}; {_ANTHROPIC_ERRORS}",
        "model_not_found",
        "model_not_available",
        "model_decommissioned",
        "model_not_active",
        "invalid_model",
        "deploymentnotfound",
        "not_found_error",
        "resource_not_found_error",
        "unknown_model",
        "unavailable_model",
    ),
    _named(
        FailureKind.OVERLOADED,
        f"{_ANTHROPIC_ERRORS}; {_OPENAI_ERRORS}; {_GROQ}",
        "overloaded_error",
        "slow_down",
        "capacity_exceeded",
        "server_overloaded",
        "engine_overloaded",
        "engine_overloaded_error",
        "unavailable",
        "unavailable_error",
        "serviceunavailableexception",
        "modelnotreadyexception",
    ),
    _named(
        FailureKind.UNSUPPORTED,
        f"{_OPENAI_ERRORS}; {_AZURE}; FastAPI validation (extra_forbidden): a parameter that only this model refuses",
        "unsupported_parameter",
        "unsupported_value",
        "unknown_parameter",
        "unsupported_model",
        "model_not_supported",
        "operationnotsupported",
        "extra_forbidden",
        "string_above_max_length",
        "array_above_max_length",
        "integer_above_max_value",
        "tool_use_failed",
        "json_validate_failed",
    ),
    _named(
        FailureKind.SERVER_ERROR,
        f"{_ANTHROPIC_ERRORS}; {_OPENAI_ERRORS}",
        "server_error",
        "internal_error",
        "internal_server_error",
        "timeout_error",
        statuses=_CLIENT,
    ),
)

_OF_INPUT = (
    Row(
        FailureKind.BAD_REQUEST,
        f"{_OPENAI_ERRORS}: a part of the input is wrong",
        frozenset(
            {
                "invalid_base64",
                "invalid_function_parameters",
                "invalid_image",
                "invalid_image_format",
                "invalid_image_url",
                "invalid_json_schema",
                "invalid_type",
                "missing_required_parameter",
            }
        ),
        statuses=_INPUT,
    ),
)

_BY_WORDS = (
    _said(
        FailureKind.KEY_REFUSED,
        "Anthropic, OpenAI, DeepSeek and OpenRouter without credit, with status 400 or 403",
        "credit balance",
        "insufficient balance",
        "insufficient credit",
        "insufficient fund",
        "insufficient quota",
        "requires more credits",
        "billing hard limit",
        "billing limit",
        "spending limit",
        "spend limit",
        "usage limit",
        "exceeded your current quota",
        "exceeded the quota",
        "payment required",
        "payment method",
        "past due",
        "billing is not",
        "billing to be enabled",
        "enable billing",
        "plan does not include",
        "purchase credits",
        "used all available credits",
        "included credits",
        "budget has been exceeded",
        "in good standing",
        "has been restricted",
        "out of call volume quota",
    ),
    _said(
        FailureKind.KEY_REFUSED,
        "Gemini, xAI, Cohere and others: a wrong key, or an account without the right, with status 400",
        "api key not valid",
        "api key not found",
        "api key expired",
        "invalid api key",
        "invalid api-key",
        "invalid api_key",
        "invalid api token",
        "incorrect api key",
        "no api key",
        "missing api key",
        "api key is missing",
        "api key is invalid",
        "api key has been",
        "invalid x-api-key",
        "invalid access token",
        "invalid auth token",
        "invalid bearer token",
        "invalid token provided",
        "invalid credentials",
        "token has expired",
        "authentication fail",
        "unauthorized",
        "organization has been disabled",
        "organization is disabled",
        "account has been",
        "account is not active",
        "account is suspended",
        "user location is not supported",
        "country, region, or territory not supported",
        "does not have permission",
        "do not have permission",
    ),
    _said(
        FailureKind.RATE_LIMITED,
        "Groq (413), Bedrock and gateways (400, 403): a rate limit that only the message names",
        "rate limit",
        "rate-limit",
        "ratelimit",
        "too many requests",
        "tokens per minute",
        "tokens per day",
        "requests per minute",
        "requests per day",
        "throttl",
        "try again in ",
        "please wait before trying",
        "service quota",
    ),
    _said(
        FailureKind.CONTEXT_TOO_LONG,
        "Anthropic, vLLM, llama.cpp, Gemini, Mistral: no code of its own",
        "prompt is too long",
        "prompt too long",
        "input is too long",
        "input too long",
        "input length and `max_tokens` exceed",
        "maximum context length",
        "maximum model length",
        "context length",
        "context window",
        "available context size",
        "context size",
        "maximum prompt length",
        "range of input length",
        "`inputs` tokens",
        "`inputs` must have less than",
        "context limit",
        "too many tokens",
        "too large for model",
        "input token count",
        "maximum number of tokens",
        "reduce the length",
    ),
    _said(
        FailureKind.CONTENT_FILTERED,
        "Anthropic, Azure, OpenRouter: no code of its own",
        "content filtering policy",
        "content management policy",
        "content policy",
        "safety system",
        "input was flagged",
        "inappropriate content",
        "usage polic",
        "content exists risk",
        "considered high risk",
    ),
    _said(
        FailureKind.MODEL_NOT_FOUND,
        "DeepSeek, OpenRouter, Groq, Mistral: an unknown model with status 400 or 403",
        "model not exist",
        "model not found",
        "model_not_found",
        "model does not exist",
        "no such model",
        "unknown model",
        "invalid model",
        "is not a valid model",
        "no endpoints found",
        "has been decommissioned",
        "has been deprecated",
        "model is not available",
        "not have access to model",
        "not have access to the model",
        "don't have access to the model",
        "no models loaded",
        "is not found for api version",
    ),
    _said(
        FailureKind.OVERLOADED,
        "Gateways and local servers that answer 4xx while a model loads or a backend is away",
        "overloaded",
        "at capacity",
        "over capacity",
        "model is loading",
        "currently loading",
        "loading model",
        "temporarily unavailable",
        "service unavailable",
        "no healthy upstream",
        "try again later",
    ),
    _said(
        FailureKind.UNSUPPORTED,
        "llama.cpp (500), vLLM (400) and OpenRouter (404): images sent to a model that takes none",
        "image input",
        "unknown variant `image_url`",
        "image_url is only supported",
        "images are not supported",
        "not a multimodal model",
        "at most 0 image",
        "image(s) may be provided",
        "image exceeds",
        "image dimensions exceed",
        "too many images",
        "mmproj",
        statuses=_OWN | {500, 501},
    ),
    _said(
        FailureKind.UNSUPPORTED,
        "OpenAI, Anthropic, Groq, vLLM, Gemini: a parameter, prefill or size that only this model refuses",
        "not support",
        "unsupported",
        "isn't supported",
        "not allowed",
        "not permitted",
        "extra inputs",
        "unrecognized request argument",
        "unrecognized field",
        "unknown parameter",
        "unknown field",
        "unknown name",
        "unexpected keyword",
        "unexpected field",
        "prefill",
        "not compatible with",
        "not available for this model",
        "not enabled for",
        "is deprecated",
        "maximum allowed number of output tokens",
        "max_tokens is too large",
        "max_tokens must be",
        "max_completion_tokens is too large",
        "cannot be used with this model",
        "must end with a user message",
        "auto tool choice requires",
        "for this model",
        "valid range of max_tokens",
        "range of max_tokens",
        "does not match any of the expected",
        "last message must have role",
        "expected last role",
        "assistant messages at the end",
        "chat template",
        "isn't available",
        statuses=frozenset({400, 404, 422}),
    ),
)

_BY_STATUS = (
    _named(FailureKind.SERVER_ERROR, f"{_ANTHROPIC_ERRORS}; compatible servers use it for all", "api_error", statuses=_CLIENT),
    Row(FailureKind.BAD_REQUEST, _ANTHROPIC_ERRORS, frozenset({"invalid_request_error"}), statuses=_INPUT, kinds=_ANTHROPIC),
    Row(
        FailureKind.BAD_REQUEST,
        f"{_OPENAI_ERRORS}; vLLM; {_GOOGLE}",
        frozenset({"invalid_request_error", "badrequesterror", "invalid_argument", "invalid_value"}),
        statuses=_INPUT,
        kinds=_COMPATIBLE,
    ),
    _status(FailureKind.KEY_REFUSED, f"{_HTTP}; {_ANTHROPIC_ERRORS}", 401, 402, 403),
    _status(FailureKind.MODEL_NOT_FOUND, f"{_OPENAI_ERRORS}; {_ANTHROPIC_ERRORS}", 404, 410),
    _status(FailureKind.NOT_IMPLEMENTED, _HTTP, 405, 501),
    _status(FailureKind.SERVER_ERROR, f"{_HTTP}; RFC 4918; RFC 8470; nginx (499)", 408, 409, 424, 425, 499),
    _status(FailureKind.CONTEXT_TOO_LONG, f"{_HTTP}; {_ANTHROPIC_ERRORS}", 413),
    _status(FailureKind.RATE_LIMITED, "RFC 6585", 429),
    _status(FailureKind.OVERLOADED, f"{_HTTP}; {_ANTHROPIC_ERRORS}; {_GROQ} (498)", 498, 503, 529),
    Row(FailureKind.UNKNOWN_REFUSAL, f"{_HTTP}: any other 4xx", statuses=_CLIENT, streamed=False),
    Row(FailureKind.SERVER_ERROR, f"{_HTTP}: any other status, and any other error inside a stream"),
)

TABLE: tuple[Row, ...] = (*_BY_NAME, *_OF_INPUT, *_BY_WORDS, *_BY_STATUS)


def look_up(
    kind: ProviderKindName | None,
    status: int | None,
    error_type: str | None,
    code: str | None,
    message: str | None,
    *,
    parameter: str | None = None,
) -> FailureKind:
    """`status` is None, or 200, for an error inside a stream. `kind` is None if the provider's kind is not known. `parameter` is
    the part of the input that the error names."""
    if status is not None and status < 300:
        status = None
    names = [name.lower() for name in (code, error_type) if name]
    said = unquoted(message or "")[:MAX_WORDS_READ].lower().replace("\u2019", "'")
    names_input = parameter is not None and _NOT_OF_THE_INPUT.search(parameter) is None
    found = (row.failure for row in TABLE if row.fits(kind, status, names, said, names_input=names_input))
    return next(found, FailureKind.SERVER_ERROR)
