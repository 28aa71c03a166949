from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.domain.errors import FailureKind
from app.domain.usage import RateLimitReport
from app.llm.failure_table import look_up
from app.llm.failures import ErrorWords, error_words, rate_limits, retry_after, stream_failure, tells_failure

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


class TestAnErrorBody:
    def test_may_be_wrapped_or_bare(self) -> None:
        inner = {"type": "t", "code": "c", "message": "m", "param": "p"}

        assert error_words({"error": inner}) == error_words(inner) == ErrorWords("t", "c", "m", "p")

    @pytest.mark.parametrize("body", [None, 7, [], {}, [1], {"error": {"type": 5, "code": None}}])
    def test_of_any_other_shape_says_nothing(self, body: object) -> None:
        assert error_words(body) == ErrorWords()

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("no", ErrorWords(message="no")),
            ({"error": "no"}, ErrorWords(message="no")),
            ({"detail": "no"}, ErrorWords(message="no")),
            ({"detail": [{"type": "extra_forbidden", "msg": "no", "loc": ["body"]}]}, ErrorWords("extra_forbidden", None, "no")),
            (
                [{"error": {"code": 400, "message": "no", "status": "INVALID_ARGUMENT"}}],
                ErrorWords(None, "INVALID_ARGUMENT", "no", None, 400),
            ),
            (
                {"object": "error", "message": "no", "type": "BadRequestError", "code": 400},
                ErrorWords("BadRequestError", None, "no", None, 400),
            ),
        ],
    )
    def test_is_read_in_the_shapes_that_servers_give_it(self, body: object, words: ErrorWords) -> None:
        assert error_words(body) == words

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({"message": {"detail": [{"msg": "no"}]}, "object": "error"}, "no"),
            ({"success": False, "errors": [{"code": 7000, "message": "no"}]}, "no"),
            ({"base_resp": {"status_code": 1008, "status_msg": "no"}, "choices": None}, "no"),
            ({"detail": {"error": {"message": "no"}}}, "no"),
            ({"error": {"message": "behind", "metadata": {"raw": "no"}}}, "behind no"),
            ({"error": True, "message": "no"}, "no"),
            ({"error": {"message": ["no"]}}, "no"),
        ],
    )
    def test_says_its_words_however_deep_they_are(self, body: object, message: str) -> None:
        assert error_words(body).message == message

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "no"}, ErrorWords(None, "REQUEST_LIMIT_EXCEEDED", "no")),
            ({"__type": "ThrottlingException", "message": "no"}, ErrorWords("ThrottlingException", None, "no")),
            ({"error": "no", "error_type": "overloaded"}, ErrorWords(message="no")),
            ({"error": {"message": "no", "code": "429"}}, ErrorWords(None, "429", "no", None, 429)),
            ({"error": {"message": "no", "code": "1113"}}, ErrorWords(None, "1113", "no")),
        ],
    )
    def test_has_its_names_in_other_fields(self, body: object, words: ErrorWords) -> None:
        assert error_words(body) == words

    def test_is_recognised_without_an_answer_beside_it(self) -> None:
        assert tells_failure({"error": "no"})
        assert tells_failure({"type": "error"})
        assert tells_failure({"code": 500, "msg": "no"})
        assert not tells_failure({"type": "ping"})
        assert not tells_failure({"id": "1", "object": "chat.completion.chunk", "message": "still working"})

    def test_inside_a_stream_may_bring_a_status_as_its_code(self) -> None:
        error = stream_failure({"code": 429, "message": "slow down"}, "req_1")

        assert (error.kind, error.status_code, error.provider_request_id) == (FailureKind.RATE_LIMITED, 429, "req_1")


class TestAGatewaysMessage:
    @pytest.mark.parametrize(
        ("message", "kind"),
        [
            ("Error code: 400 - {'error': {'message': 'Your credit balance is too low', 'type': 'x'}}", FailureKind.KEY_REFUSED),
            ('litellm.BadRequestError: {"error":{"message":"no","code":"insufficient_quota"}}', FailureKind.KEY_REFUSED),
            ('{"error": {"message": "Rate limit exceeded"}}', FailureKind.RATE_LIMITED),
            ('Provider says {"type":"error","error":{"type":"overloaded_error","message":"no"}}.', FailureKind.OVERLOADED),
            ("{'message': \"API key isn't set: no api key\", 'code': 400}", FailureKind.KEY_REFUSED),
        ],
    )
    def test_is_read_for_the_error_of_the_provider_behind_it(self, message: str, kind: FailureKind) -> None:
        words = error_words({"error": {"message": message, "type": "invalid_request_error"}})
        failure = look_up(None, 400, words.error_type, words.code, words.message, parameter=words.parameter)
        assert failure is kind

    @pytest.mark.parametrize(
        "message",
        [
            'Invalid value: \'{"error": {"message": "rate limit"}}\'',
            "Invalid value: \"{'error': {'message': 'rate limit'}}\"",
            "Wrong element {'text': 'rate limit'}",
            "Wrong {" + "[" * 5000,
            "Wrong " + "{'a':" * 3000 + "1" + "}" * 3000,
        ],
    )
    def test_is_not_read_for_what_it_quotes(self, message: str) -> None:
        words = error_words({"message": message, "type": "invalid_request_error"})
        assert look_up(None, 400, words.error_type, words.code, words.message) is FailureKind.BAD_REQUEST

    def test_of_a_validation_names_the_part_of_the_input(self) -> None:
        body = {"detail": [{"type": "enum", "loc": ["body", "messages", 0, "role"], "msg": "usage limit is no role"}]}
        assert error_words(body).parameter == "role"


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

    @pytest.mark.parametrize(
        "headers",
        [
            {"x-remaining-t": "-1", "x-limit-t": "-1", "x-remaining-r": "-1"},
            {"x-remaining-t": "0", "x-limit-t": "0"},
            {"x-remaining-t": "nan"},
            {"x-remaining-t": ""},
            {"x-remaining-t": "unlimited"},
        ],
    )
    def test_that_are_unknown_are_not_nothing(self, headers: dict[str, str]) -> None:
        assert rate_limits(headers, "x-remaining-r", ("x-remaining-t",)) is None

    def test_of_nothing_left_are_nothing_left(self) -> None:
        headers = {"x-remaining-t": "0", "x-limit-t": "6000"}
        assert rate_limits(headers, "x-remaining-r", ("x-remaining-t",)) == RateLimitReport(None, 0)
