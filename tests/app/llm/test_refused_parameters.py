from __future__ import annotations

import pytest

from app.llm.failure_table import look_up
from app.llm.failures import error_words
from app.llm.refused_parameters import Parameters
from app.settings import ProviderKindName

OPENAI = Parameters(
    own=frozenset({"stream_options", "encoding_format"}),
    asked=frozenset({"temperature", "top_p", "seed", "stop", "reasoning_effort", "max_tokens", "max_completion_tokens"}),
)


def refused(body: object, status: int = 400) -> str | None:
    words = error_words(body)
    kind = look_up(ProviderKindName.OPENAI_COMPATIBLE, status, words.error_type, words.code, words.message)
    found = OPENAI.refused(kind, status, words, body)
    return None if found is None else found.parameter


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"error": {"message": "Unsupported parameter: 'seed'", "param": "seed", "code": "unsupported_parameter"}}, "seed"),
        ({"error": {"message": "Unrecognized request argument supplied: stream_options", "code": None}}, "stream_options"),
        ({"error": {"message": "bad field", "param": "stream_options.include_usage", "code": "invalid_value"}}, "stream_options"),
        ({"error": {"message": "stream_options: Extra inputs are not permitted"}}, "stream_options"),
        ({"error": {"message": "no `encoding_format` here"}}, "encoding_format"),
        ({"error_code": "BAD_REQUEST", "message": 'Invalid JSON: unknown field "encoding_format"'}, "encoding_format"),
        (
            {
                "detail": [
                    {"type": "extra_forbidden", "loc": ["body", "encoding_format"], "msg": "Extra inputs are not permitted"}
                ]
            },
            "encoding_format",
        ),
        ({"object": "error", "message": "[{'loc': ('body', 'stream_options'), 'msg': 'extra'}]", "code": 400}, "stream_options"),
        (
            [{"error": {"code": 400, "message": 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'}}],
            "seed",
        ),
        ({"error": {"message": "Unrecognized request argument supplied: stop"}}, "stop"),
        ({"error": {"message": "`temperature` is deprecated for this model."}}, "temperature"),
        ({"error": {"message": "temperature is not supported with this model."}}, "temperature"),
        (
            {"error": {"message": "Unsupported value", "param": "reasoning.effort", "code": "unsupported_value"}},
            "reasoning_effort",
        ),
        (
            {"error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}},
            "max_tokens",
        ),
        (
            {"error": {"message": "`temperature` and `top_p` cannot both be specified for this model. Please use only one."}},
            "top_p",
        ),
    ],
)
def test_a_parameter_that_is_refused_by_name_is_found(body: object, name: str) -> None:
    assert refused(body) == name


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Invalid 'temperature': decimal out of range.", "param": "temperature", "code": "out_of_range"}},
        {"error": {"message": "temperature must be between 0 and 1"}},
        {"error": {"message": "I do not support this: please stop."}},
        {"error": {"message": "Unknown field: my_stream_options_of_old"}},
        {"error": {"message": "messages: roles must alternate"}},
        {"error": {"message": "Unsupported parameter: 'tools'", "param": "tools", "code": "unsupported_parameter"}},
        {"error": {"message": "max_tokens and messages exceed the context length", "code": "context_length_exceeded"}},
        "stream",
        None,
        {"detail": [1, None]},
    ],
)
def test_another_refusal_names_none(body: object) -> None:
    assert refused(body) is None


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_a_failure_that_is_no_refusal_of_the_request_names_none(status: int) -> None:
    assert refused({"error": {"message": "stream_options is unknown"}}, status) is None
