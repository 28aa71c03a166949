from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.errors import FailureKind
from app.llm.failures import classify, error_words, rate_limits, retry_after, stream_failure
from app.usage import RateLimitReport

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


class TestClassify:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, FailureKind.BAD_REQUEST),
            (401, FailureKind.KEY_REFUSED),
            (402, FailureKind.KEY_REFUSED),
            (403, FailureKind.KEY_REFUSED),
            (404, FailureKind.MODEL_NOT_FOUND),
            (408, FailureKind.SERVER_ERROR),
            (409, FailureKind.SERVER_ERROR),
            (413, FailureKind.CONTEXT_TOO_LONG),
            (418, FailureKind.BAD_REQUEST),
            (429, FailureKind.RATE_LIMITED),
            (500, FailureKind.SERVER_ERROR),
            (503, FailureKind.OVERLOADED),
            (504, FailureKind.SERVER_ERROR),
            (529, FailureKind.OVERLOADED),
            (302, FailureKind.SERVER_ERROR),
        ],
    )
    def test_by_status(self, status: int, kind: FailureKind) -> None:
        assert classify(status, None, None, None) is kind

    @pytest.mark.parametrize(
        ("error_type", "kind"),
        [
            ("overloaded_error", FailureKind.OVERLOADED),
            ("rate_limit_error", FailureKind.RATE_LIMITED),
            ("api_error", FailureKind.SERVER_ERROR),
            ("server_error", FailureKind.SERVER_ERROR),
            ("authentication_error", FailureKind.KEY_REFUSED),
            ("invalid_request_error", FailureKind.BAD_REQUEST),
            ("never heard of", FailureKind.SERVER_ERROR),
            (None, FailureKind.SERVER_ERROR),
        ],
    )
    def test_by_type_inside_a_stream(self, error_type: str | None, kind: FailureKind) -> None:
        assert classify(None, error_type, None, None) is kind

    @pytest.mark.parametrize(
        ("status", "code", "kind"),
        [
            (429, "insufficient_quota", FailureKind.KEY_REFUSED),
            (400, "context_length_exceeded", FailureKind.CONTEXT_TOO_LONG),
            (400, "content_filter", FailureKind.CONTENT_FILTERED),
            (404, "model_not_found", FailureKind.MODEL_NOT_FOUND),
        ],
    )
    def test_a_code_says_more_than_the_status(self, status: int, code: str, kind: FailureKind) -> None:
        assert classify(status, "invalid_request_error", code, None) is kind

    @pytest.mark.parametrize(
        "message",
        [
            "prompt is too long: 208310 tokens > 200000 maximum",
            "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
        ],
    )
    def test_too_long_has_no_code_at_some_providers(self, message: str) -> None:
        assert classify(400, "invalid_request_error", None, message) is FailureKind.CONTEXT_TOO_LONG
        assert classify(500, "api_error", None, message) is FailureKind.SERVER_ERROR


class TestAnErrorBody:
    def test_may_be_wrapped_or_bare(self) -> None:
        inner = {"type": "t", "code": "c", "message": "m", "param": "p"}

        assert error_words({"error": inner}) == error_words(inner) == ("t", "c", "m", "p")

    @pytest.mark.parametrize("body", [None, "text", 7, [], {}, {"error": "text"}, {"error": {"type": 5, "code": None}}])
    def test_of_any_other_shape_says_nothing(self, body: object) -> None:
        assert error_words(body) == (None, None, None, None)

    def test_inside_a_stream_may_bring_a_status_as_its_code(self) -> None:
        error = stream_failure({"code": 429, "message": "slow down"}, "req_1")

        assert (error.kind, error.status_code, error.provider_request_id) == (FailureKind.RATE_LIMITED, 429, "req_1")


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"retry-after-ms": "250"}, 0.25),
            ({"retry-after": "7"}, 7),
            ({"retry-after": "1.5"}, 1.5),
            ({"retry-after-ms": "100", "retry-after": "7"}, 0.1),
            ({"retry-after-ms": "soon", "retry-after": "7"}, 7),
            ({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT"}, 30),
            ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT"}, 0),
            ({"retry-after": "-3"}, 0),
            ({"retry-after": "1e300"}, 86_400),
        ],
    )
    def test_is_understood_in_all_its_forms(self, headers: dict[str, str], seconds: float) -> None:
        assert retry_after(headers, NOW) == timedelta(seconds=seconds)

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"retry-after": "later"},
            {"retry-after": "Sun, 22 Nov 99999999999 12:00:00 GMT"},
            {"retry-after": "nan"},
            {"retry-after": ""},
        ],
    )
    def test_is_unknown_otherwise(self, headers: dict[str, str]) -> None:
        assert retry_after(headers, NOW) is None


class TestRateLimits:
    def test_are_the_smallest_that_the_headers_say(self) -> None:
        headers = {"r": "5", "t": "100", "t-in": "40"}

        assert rate_limits(headers, "r", ("t", "t-in", "t-out")) == RateLimitReport(5, 40)

    def test_are_unknown_where_nothing_readable_is_said(self) -> None:
        assert rate_limits({"r": "many"}, "r", ("t",)) is None
        assert rate_limits({"t": "-1"}, "r", ("t",)) == RateLimitReport(None, 0)
