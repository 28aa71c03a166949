from __future__ import annotations

from typing import Any, get_type_hints

import pytest
from anthropic.types.beta.message_create_params import MessageCreateParamsBase as BetaParams
from anthropic.types.message_create_params import MessageCreateParamsBase as AnthropicParams
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as OpenAIParams

from app.domain.errors import Refused
from app.domain.problems import InvalidInput
from app.settings import ProviderKindName
from resolvers.inputs.provider_options import to_provider_options

TAKEN: dict[str, set[str]] = {
    "openai": {
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "metadata",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "top_logprobs",
        "user",
        "verbosity",
    },
    "anthropic": {"diagnostics", "metadata"},
}
"""The fields of the real APIs that a caller may set. All the others are GreenLang's, or could cost more than is held."""
OWN = [
    "model",
    "messages",
    "system",
    "prompt",
    "input",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "maxTokens",
    "max_new_tokens",
    "max_length",
    "n_predict",
    "num_predict",
    "thinking_budget",
    "token_limit",
    "n",
    "N",
    "best_of",
    "num_return_sequences",
    "candidate_count",
    "stream",
    "stream_options",
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "parallel_tool_calls",
    "service_tier",
    "serviceTier",
    "speed",
    "response_format",
    "output_config",
    "thinking",
    "reasoning",
    "reasoning_effort",
    "store",
    "background",
    "previous_response_id",
    "prediction",
    "modalities",
    "audio",
    "moderation",
    "web_search_options",
    "enable_search",
    "search_parameters",
    "plugins",
    "models",
    "provider",
    "route",
    "container",
    "context_management",
    "mcp_servers",
    "betas",
    "inference_geo",
    "workspace_id",
    "user_profile_id",
    "cache_control",
    "prompt_cache_options",
    "extra_body",
    "extra_headers",
    "extra_query",
]


def refusal(value: object) -> tuple[str, ...] | None:
    with pytest.raises(Refused) as caught:
        to_provider_options(value)
    assert isinstance(caught.value.reason, InvalidInput)
    assert caught.value.reason.message.endswith(".")
    return caught.value.reason.path


def is_taken(kind: str, name: str) -> bool:
    try:
        to_provider_options({kind: {name: 1}})
    except Refused:
        return False
    return True


@pytest.mark.parametrize(
    ("kind", "params"),
    [("openai", OpenAIParams), ("anthropic", AnthropicParams), ("anthropic", BetaParams)],
    ids=["openai", "anthropic", "anthropic beta"],
)
def test_every_field_of_the_real_apis_is_decided_on(kind: str, params: Any) -> None:
    """A field that is new in an SDK fails here until it stands in one of the two lists."""
    fields = set(get_type_hints(params))
    assert {name for name in fields if is_taken(kind, name)} == TAKEN[kind] & fields


@pytest.mark.parametrize("kind", [kind.value for kind in ProviderKindName])
@pytest.mark.parametrize("name", OWN)
def test_what_sets_or_costs_more_than_is_held_is_refused_with_its_path(kind: str, name: str) -> None:
    assert refusal({kind: {"user": "u", name: 1}}) == ("providerOptions", kind, name)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"options": {"num_predict": 9}}, ("options", "num_predict")),
        ({"chat_template_kwargs": {"a": [{"max_tokens": 9}]}}, ("chat_template_kwargs", "a", "0", "max_tokens")),
        ({"x": {"extra_body": {}}}, ("x", "extra_body")),
        ({"x": {"y": {"budget_tokens": 9}}}, ("x", "y", "budget_tokens")),
    ],
)
def test_caps_further_down_are_refused_with_their_path(options: dict[str, object], path: tuple[str, ...]) -> None:
    assert refusal({"openai-compatible": options}) == ("providerOptions", "openai-compatible", *path)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([], ()),
        ("x", ()),
        ({"openai": []}, ("openai",)),
        ({"openai": None}, ("openai",)),
        ({"azure": {}}, ("azure",)),
        ({"my-openai": {}}, ("my-openai",)),
    ],
)
def test_they_are_objects_by_the_kind_of_provider(value: object, path: tuple[str, ...]) -> None:
    assert refusal(value) == ("providerOptions", *path)


def test_others_come_as_they_are() -> None:
    options = {
        "openai": {"verbosity": "low", "user": "u-1", "logit_bias": {"50256": -100}},
        "anthropic": {"metadata": {"user_id": "u-1", "max_tokens": "a name of the caller"}, "top_k": 5},
        "openai-compatible": {"min_p": 0.1, "chat_template_kwargs": {"enable_thinking": False}, "repetition_penalty": 1.1},
    }
    assert to_provider_options(options) == options
    assert to_provider_options({}) == {}
    assert to_provider_options(None) is None
