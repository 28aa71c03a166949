"""Anthropic through its official SDK: POST /v1/messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anthropic import APIConnectionError, APIStatusError, AsyncAnthropic, DefaultAioHttpClient, Omit, transform_schema

from app.domain.errors import FailureKind, ProviderError
from app.domain.usage import TokenUsage
from app.llm.messages import AskedTier, EmbedCall, Embedded, JsonSchemaFormat, ModelCall, ReasoningEffort
from app.llm.providers.adapter import Adapter
from app.llm.providers.answers import WholeAnswer
from app.llm.providers.anthropic.request import (
    FAST_BETA,
    REFUSABLE,
    encode_request,
    has_open_object,
    needs_sampling_version,
    settled_effort,
)
from app.llm.providers.anthropic.response import read_answer, read_billed
from app.llm.providers.anthropic.stream import AnthropicStream
from app.llm.providers.call_names import CallNames
from app.llm.providers.encoded_request import EncodedRequest
from app.llm.providers.keyring import build_keyring
from app.llm.providers.unsupported import Notes
from app.llm.providers.upstream import Sdk, Upstream, client_options, silence
from app.runtime.clock import Clock
from app.settings import ProviderKindName, ProviderSettings
from app.settings.defaults import PUBLIC_URLS

_SAMPLING_VERSION: tuple[tuple[str, str], ...] = (("anthropic-version", "2023-06-01"),)
"""The last version of the API that has `temperature` and `top_p`. Our requests have nothing else that changed later."""
_KEY_OF_EACH_REQUEST = "-"
"""The SDK requires a key when it is created. The real one goes with each request."""


class AnthropicProvider(Adapter):
    completions_path = "/v1/messages"
    models_path = "/v1/models"
    parameters = REFUSABLE

    def __init__(self, settings: ProviderSettings, clock: Clock) -> None:
        """Raises SettingsError if a key cannot be read."""
        silence("anthropic", "httpx2")
        options = client_options(settings)
        http = DefaultAioHttpClient(**options)
        client = AsyncAnthropic(
            auth_token=_KEY_OF_EACH_REQUEST,
            base_url=settings.base_url or PUBLIC_URLS[ProviderKindName.ANTHROPIC],
            max_retries=0,
            timeout=options["timeout"],
            open_telemetry=False,
            http_client=http,
        )
        sdk = Sdk(
            client,
            http,
            APIStatusError,
            APIConnectionError,
            no_key=Omit(),
            request_id_header="request-id",
            requests_header="anthropic-ratelimit-requests-remaining",
            tokens_headers=(
                "anthropic-ratelimit-tokens-remaining",
                "anthropic-ratelimit-input-tokens-remaining",
                "anthropic-ratelimit-output-tokens-remaining",
            ),
            parameters=self.parameters,
        )
        super().__init__(settings, Upstream(sdk, settings, build_keyring(settings, clock), clock), clock)
        self.call_names = CallNames("toolu_", max_id_length=256, max_name_length=128)

    def encode(self, call: ModelCall, notes: Notes, *, stream: bool) -> EncodedRequest:
        untaken = self.untaken.of(call.model, call.reasoning_effort)
        body = encode_request(call, notes, _native_format(call), untaken, stream=stream)
        headers = _SAMPLING_VERSION if needs_sampling_version(call, untaken) else ()
        if call.service_tier is AskedTier.FAST:
            headers = (*headers, ("anthropic-beta", FAST_BETA))
        return EncodedRequest(body, headers)

    def settled_effort(self, call: ModelCall) -> ReasoningEffort | None:
        return settled_effort(call, self.untaken.of(call.model, call.reasoning_effort))

    def read_answer(self, raw: bytes, call: ModelCall, notes: Notes) -> WholeAnswer:
        return read_answer(raw, call, notes)

    def read_billed(self, body: Mapping[str, object], call: ModelCall, output_bytes: int) -> TokenUsage | None:
        return read_billed(body, call, output_bytes)

    def reader(self, call: ModelCall, notes: Notes, provider_request_id: str | None) -> AnthropicStream:
        by_tool = call.response_format is not None and _native_format(call) is None
        return AnthropicStream(call, notes, provider_request_id, by_tool=by_tool)

    async def embed(self, call: EmbedCall) -> Embedded:  # noqa: ARG002  # the name is the interface's
        """There is no embeddings API, so this always raises MODEL_NOT_FOUND and sends nothing."""
        raise ProviderError(FailureKind.MODEL_NOT_FOUND)


def _native_format(call: ModelCall) -> dict[str, Any] | None:
    """Returns None also if no schema is requested."""
    wanted = call.response_format
    return _native_schema(wanted.schema) if isinstance(wanted, JsonSchemaFormat) else None


def _native_schema(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Translates the schema into the API's dialect, in which all objects are closed. Returns None if that would change the
    meaning."""
    if has_open_object(schema):
        return None
    try:
        return transform_schema(dict(schema))
    except (ValueError, TypeError, AttributeError, AssertionError):
        return None
