from __future__ import annotations

from pathlib import Path

import pytest

from app.domain.errors import FailureKind
from app.llm.failure_table import TABLE, look_up
from app.settings import ProviderKindName
from tests.app.llm.failure_page import render

K = FailureKind
PAGE = Path(__file__).parents[3] / "docs" / "failures.md"


class TestByStatusAlone:
    @pytest.mark.parametrize(
        ("status", "failure"),
        [
            (400, K.UNKNOWN_REFUSAL),
            (401, K.KEY_REFUSED),
            (402, K.KEY_REFUSED),
            (403, K.KEY_REFUSED),
            (404, K.MODEL_NOT_FOUND),
            (405, K.NOT_IMPLEMENTED),
            (408, K.SERVER_ERROR),
            (409, K.SERVER_ERROR),
            (410, K.MODEL_NOT_FOUND),
            (413, K.CONTEXT_TOO_LONG),
            (418, K.UNKNOWN_REFUSAL),
            (422, K.UNKNOWN_REFUSAL),
            (424, K.SERVER_ERROR),
            (425, K.SERVER_ERROR),
            (429, K.RATE_LIMITED),
            (498, K.OVERLOADED),
            (499, K.SERVER_ERROR),
            (500, K.SERVER_ERROR),
            (501, K.NOT_IMPLEMENTED),
            (503, K.OVERLOADED),
            (504, K.SERVER_ERROR),
            (529, K.OVERLOADED),
            (302, K.SERVER_ERROR),
        ],
    )
    def test_is_what_the_status_means(self, status: int, failure: FailureKind) -> None:
        assert look_up(None, status, None, None, None) is failure


class TestInsideAStream:
    @pytest.mark.parametrize(
        ("error_type", "failure"),
        [
            ("overloaded_error", K.OVERLOADED),
            ("rate_limit_error", K.RATE_LIMITED),
            ("api_error", K.SERVER_ERROR),
            ("server_error", K.SERVER_ERROR),
            ("authentication_error", K.KEY_REFUSED),
            ("invalid_request_error", K.BAD_REQUEST),
            ("never heard of", K.SERVER_ERROR),
            (None, K.SERVER_ERROR),
        ],
    )
    def test_the_type_decides(self, error_type: str | None, failure: FailureKind) -> None:
        assert look_up(None, 200, error_type, None, None) is failure
        assert look_up(None, None, error_type, None, None) is failure


class TestWhatTheErrorSaysItself:
    """Status, type, code and message as they were seen; what they mean."""

    @pytest.mark.parametrize(
        ("status", "error_type", "code", "message", "failure"),
        [
            # the account cannot pay
            (429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota", K.KEY_REFUSED),
            (400, "invalid_request_error", None, "Your credit balance is too low to access the Anthropic API.", K.KEY_REFUSED),
            (400, "invalid_request_error", "billing_hard_limit_reached", "Billing hard limit has been reached", K.KEY_REFUSED),
            (403, None, "insufficient_balance", "no", K.KEY_REFUSED),
            (400, None, None, "Access denied, please make sure your account has been paid (Arrearage)", K.KEY_REFUSED),
            # there is no key, or it lacks the right
            (400, None, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", K.KEY_REFUSED),
            (400, None, None, "Incorrect API key provided: xa***. You can obtain an API key from the console.", K.KEY_REFUSED),
            (400, "invalid_request_error", None, "This organization has been disabled.", K.KEY_REFUSED),
            (400, None, "FAILED_PRECONDITION", "User location is not supported for the API use.", K.KEY_REFUSED),
            # a rate limit with another status
            (413, "tokens", "rate_limit_exceeded", "Request too large on tokens per minute (TPM): Limit 6000", K.RATE_LIMITED),
            (400, "rate_limit_error", "rate_limit_exceeded", "slow down", K.RATE_LIMITED),
            (413, None, None, "Request too large for model on tokens per minute (TPM): Limit 6000", K.RATE_LIMITED),
            (403, None, None, "Rate limit exceeded for this key", K.RATE_LIMITED),
            (400, "ThrottlingException", None, "no", K.RATE_LIMITED),
            # the model is not there
            (404, "invalid_request_error", "model_not_found", "The model `x` does not exist", K.MODEL_NOT_FOUND),
            (400, "invalid_request_error", "model_decommissioned", "The model has been decommissioned", K.MODEL_NOT_FOUND),
            (400, "invalid_request_error", None, "Model Not Exist", K.MODEL_NOT_FOUND),
            (400, None, None, "x/y is not a valid model ID", K.MODEL_NOT_FOUND),
            (404, None, "DeploymentNotFound", "The API deployment does not exist.", K.MODEL_NOT_FOUND),
            # the server is not ready
            (400, "api_error", None, "Internal server error", K.SERVER_ERROR),
            (400, None, None, "The model is overloaded. Please try again later.", K.OVERLOADED),
            # one target's own limit
            (
                400,
                "invalid_request_error",
                "unsupported_value",
                "temperature does not support 0.3 with this model",
                K.UNSUPPORTED,
            ),
            (422, "extra_forbidden", None, "Extra inputs are not permitted", K.UNSUPPORTED),
            (422, None, None, "Unknown parameter: seed", K.UNSUPPORTED),
            (400, "BadRequestError", None, "x is not a multimodal model", K.UNSUPPORTED),
            (404, None, None, "No endpoints found that support image input", K.MODEL_NOT_FOUND),
            (500, None, None, "image input is not supported - hint: you may need to provide the mmproj", K.UNSUPPORTED),
            (400, "invalid_request_error", None, "This model does not support assistant message prefill.", K.UNSUPPORTED),
            (
                400,
                "invalid_request_error",
                None,
                "max_tokens: 64000 > 8192, the maximum allowed number of output tokens",
                K.UNSUPPORTED,
            ),
            (400, None, "OperationNotSupported", "The chatCompletion operation does not work with the model", K.UNSUPPORTED),
            # too long
            (400, "invalid_request_error", "context_length_exceeded", None, K.CONTEXT_TOO_LONG),
            (400, "invalid_request_error", None, "prompt is too long: 208310 tokens > 200000 maximum", K.CONTEXT_TOO_LONG),
            (
                400,
                None,
                None,
                "This model's maximum context length is 4096 tokens. However, you requested 5000",
                K.CONTEXT_TOO_LONG,
            ),
            (400, None, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number of tokens", K.CONTEXT_TOO_LONG),
            (500, "api_error", None, "prompt is too long", K.SERVER_ERROR),
            # the input
            (400, "invalid_request_error", "content_filter", None, K.CONTENT_FILTERED),
            (400, None, None, "Output blocked by content filtering policy", K.CONTENT_FILTERED),
            (400, "invalid_request_error", None, "messages: roles must alternate", K.BAD_REQUEST),
            (422, "invalid_request_error", None, "The request could not be processed.", K.BAD_REQUEST),
            (400, "BadRequestError", None, "Conversation roles must alternate", K.BAD_REQUEST),
        ],
    )
    def test_is_stronger_than_the_status(
        self, status: int, error_type: str | None, code: str | None, message: str | None, failure: FailureKind
    ) -> None:
        assert look_up(None, status, error_type, code, message) is failure

    def test_counts_for_the_provider_kind_it_is_known_of(self) -> None:
        assert look_up(ProviderKindName.ANTHROPIC, 400, "BadRequestError", None, None) is K.UNKNOWN_REFUSAL
        assert look_up(ProviderKindName.OPENAI_COMPATIBLE, 400, "BadRequestError", None, None) is K.BAD_REQUEST


class TestOtherServersErrors:
    """Seen at gateways, local servers and smaller providers."""

    @pytest.mark.parametrize(
        ("status", "error_type", "code", "message", "failure"),
        [
            (429, "exceeded_current_quota_error", None, "Your account is suspended, please check your plan", K.KEY_REFUSED),
            (400, "budget_exceeded", "400", "Budget has been exceeded! Current cost: 1.0, Max budget: 1.0", K.KEY_REFUSED),
            (403, None, "insufficient_user_quota", "no", K.KEY_REFUSED),
            (400, "invalid_request_error", "organization_restricted", "Organization has been restricted.", K.KEY_REFUSED),
            (412, None, None, "Account x is suspended, possibly due to reaching the monthly spending limit", K.KEY_REFUSED),
            (400, None, "Arrearage", "Access denied, please make sure your account is in good standing.", K.KEY_REFUSED),
            (400, None, None, "Too many tokens, please wait before trying again.", K.RATE_LIMITED),
            (400, "ServiceQuotaExceededException", None, "Your request exceeds the service quota", K.RATE_LIMITED),
            (403, None, "REQUEST_LIMIT_EXCEEDED", "Exceeded workspace limit", K.RATE_LIMITED),
            (400, None, "unknown_model", "Unknown model: x", K.MODEL_NOT_FOUND),
            (400, None, None, "You don\u2019t have access to the model with the specified model ID.", K.MODEL_NOT_FOUND),
            (400, "unavailable_error", None, "no", K.OVERLOADED),
            (400, "api_error", None, "registry.ollama.ai/library/x:latest does not support tools", K.UNSUPPORTED),
            (400, None, None, "Invocation with on-demand throughput isn\u2019t supported.", K.UNSUPPORTED),
            (400, "invalid_request_error", "tool_use_failed", "Failed to call a function.", K.UNSUPPORTED),
            (400, "invalid_request_error", "json_validate_failed", "Failed to generate JSON.", K.UNSUPPORTED),
            (400, "invalid_request_error", "array_above_max_length", "Invalid 'tools': array too long.", K.UNSUPPORTED),
            (400, "invalid_request_error", None, "the valid range of max_tokens is [1, 8192]", K.UNSUPPORTED),
            (400, "invalid_request_error", None, "`temperature` and `top_p` cannot both be given for this model.", K.UNSUPPORTED),
            (400, "invalid_request_error", None, "messages.0.content.0: image exceeds 5 MB maximum", K.UNSUPPORTED),
            (400, "BadRequestError", None, "At most 1 image(s) may be provided in one request.", K.UNSUPPORTED),
            (
                400,
                "invalid_request_error",
                None,
                "Cannot have 2 or more assistant messages at the end of the list.",
                K.UNSUPPORTED,
            ),
            (400, None, None, "Last message must have role `user` or `tool`", K.UNSUPPORTED),
            (400, "invalid_request_error", None, "This model's maximum prompt length is 131072", K.CONTEXT_TOO_LONG),
            (422, "validation", None, "`inputs` tokens + `max_new_tokens` must be <= 4096", K.CONTEXT_TOO_LONG),
            (400, None, None, "Range of input length should be [1, 30720]", K.CONTEXT_TOO_LONG),
            (400, "invalid_request_error", None, "Content Exists Risk", K.CONTENT_FILTERED),
            (400, "invalid_request_error", None, "flagged as potentially violating our usage policy.", K.CONTENT_FILTERED),
        ],
    )
    def test_are_about_who_is_at_fault(
        self, status: int, error_type: str | None, code: str | None, message: str | None, failure: FailureKind
    ) -> None:
        assert look_up(ProviderKindName.OPENAI_COMPATIBLE, status, error_type, code, message) is failure


class TestAFaultOfTheInput:
    """Quoted words, and words beside the name of a part of the input, take no key out of use and limit no target."""

    @pytest.mark.parametrize(
        "message",
        [
            "Invalid schema for function 'f': 'payment method' is not of type 'object'",
            'Invalid value: "rate limit". Supported values are: "a", "b".',
            "Invalid 'tools[0].function.name': 'context window' does not match the pattern",
            "Unexpected text `api key not valid` in the stop sequence",
            "The name \u201cunauthorized\u201d is not a valid identifier",
            "The name \u2018model not found, don\u2019t ask\u2019 is not a valid identifier",
            "The name \u00abunsupported\u00bb is not a valid identifier",
            "The text 'it isn't an overloaded model, is it' has a wrong form",
            'Wrong element {"text": "please explain the rate limit of HTTP", "n": [{"a": "too many requests"}]}',
            "Wrong element {text: the usage limit, of: [credit balance]}",
            'Cut value: "please tell me about the billing limit and the rate li',
            "Failed to parse grammar: invalid token at position 4",
            "Invalid 'metadata': the key 'past due' has a wrong form",
        ],
    )
    def test_is_not_about_what_it_quotes(self, message: str) -> None:
        assert look_up(ProviderKindName.OPENAI, 400, "invalid_request_error", None, message) is K.BAD_REQUEST
        assert look_up(ProviderKindName.ANTHROPIC, 400, "invalid_request_error", None, message) is K.BAD_REQUEST

    @pytest.mark.parametrize("parameter", ["messages", "tools[0].function.name", "response_format", "metadata.plan"])
    @pytest.mark.parametrize("message", ["rate limit has a wrong form", "usage limit is no name", "overloaded is no enum value"])
    def test_is_what_an_error_is_that_names_a_part_of_it(self, parameter: str, message: str) -> None:
        assert look_up(None, 400, "invalid_request_error", None, message, parameter=parameter) is K.BAD_REQUEST

    @pytest.mark.parametrize(
        "code", ["invalid_function_parameters", "invalid_json_schema", "missing_required_parameter", "invalid_image_url"]
    )
    def test_is_what_its_code_says_before_any_words(self, code: str) -> None:
        assert look_up(None, 400, "invalid_request_error", code, "Your payment method is unsupported") is K.BAD_REQUEST

    @pytest.mark.parametrize(
        ("message", "parameter", "failure"),
        [
            ('"Your credit balance is too low"', None, K.KEY_REFUSED),
            ("'Rate limit exceeded'", None, K.RATE_LIMITED),
            ("Rate limit reached for model 'x' in organization 'y' on tokens per minute", None, K.RATE_LIMITED),
            ("The API key isn't right: invalid api key 'sk-x'", None, K.KEY_REFUSED),
            ("Incorrect API key provided", "api_key", K.KEY_REFUSED),
            ("The users' rate limit and the model's one are reached", None, K.RATE_LIMITED),
            ("unknown variant `image_url`, expected `text`", "messages", K.UNSUPPORTED),
            ("'temperature' is not supported with this model", "temperature", K.UNSUPPORTED),
            ("This model's maximum context length is 4096 tokens", "messages", K.CONTEXT_TOO_LONG),
        ],
    )
    def test_is_not_what_an_error_is_that_says_something_else_itself(
        self, message: str, parameter: str | None, failure: FailureKind
    ) -> None:
        assert look_up(None, 400, "invalid_request_error", None, message, parameter=parameter) is failure


class TestTheTable:
    def test_has_a_source_for_every_row(self) -> None:
        assert all(row.source for row in TABLE)

    def test_reads_names_and_words_in_lower_case(self) -> None:
        assert all(text == text.lower() for row in TABLE for text in (*row.names, *row.words))

    def test_has_no_row_that_an_earlier_one_hides(self) -> None:
        for index, row in enumerate(TABLE):
            for word in row.words:
                hidden = [
                    earlier.failure
                    for earlier in TABLE[:index]
                    if earlier.words and earlier.failure is not row.failure and any(part in word for part in earlier.words)
                ]
                assert not hidden, word

    def test_is_the_page_in_the_documentation(self) -> None:
        assert PAGE.read_text(encoding="utf-8") == render()
