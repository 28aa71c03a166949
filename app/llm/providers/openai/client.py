"""OpenAI, and servers that speak its protocol, through the official SDK: POST /chat/completions and /embeddings."""

from __future__ import annotations

from collections.abc import Mapping

from openai import APIConnectionError, APIStatusError, AsyncOpenAI, DefaultAioHttpClient, Omit

from app.domain.errors import FailureKind, ProviderError
from app.domain.usage import TokenUsage
from app.llm.messages import EmbedCall, Embedded, ModelCall, ReasoningEffort
from app.llm.providers.adapter import Adapter
from app.llm.providers.answer_timeouts import embedding_timeout, silence_deadline
from app.llm.providers.answers import WholeAnswer
from app.llm.providers.bodies import Begun, BrokenAnswer, ErrorAnswer, ParameterRefused
from app.llm.providers.call_names import CallNames
from app.llm.providers.efforts import settle_effort
from app.llm.providers.encoded_request import EncodedRequest
from app.llm.providers.keyring import build_keyring
from app.llm.providers.opaque_fields import given_back
from app.llm.providers.openai.request import REFUSABLE, encode_embedding, encode_request
from app.llm.providers.openai.response import read_answer, read_billed, read_embeddings
from app.llm.providers.openai.stream import OpenAIStream
from app.llm.providers.unsupported import Notes
from app.llm.providers.upstream import Sdk, Upstream, client_options, silence
from app.llm.providers.usage_figures import openai_figures_of
from app.llm.providers.usage_mapping import embedding_usage, estimated_embedding_usage, salvaged_embedding_usage
from app.llm.providers.wire_text import Malformed, as_utf8, clean, read_object
from app.runtime.clock import Clock
from app.settings import ProviderKindName, ProviderSettings
from app.settings.defaults import PUBLIC_URLS

_KEY_OF_EACH_REQUEST = "-"
"""The SDK requires a key when it is created. The real one goes with each request."""


class OpenAIProvider(Adapter):
    completions_path = "/chat/completions"
    models_path = "/models"
    parameters = REFUSABLE

    def __init__(self, settings: ProviderSettings, clock: Clock) -> None:
        """Raises SettingsError if a key cannot be read."""
        silence("openai", "httpx2")
        options = client_options(settings)
        http = DefaultAioHttpClient(**options)
        client = AsyncOpenAI(
            api_key=_KEY_OF_EACH_REQUEST,
            base_url=settings.base_url or PUBLIC_URLS[ProviderKindName.OPENAI],
            max_retries=0,
            timeout=options["timeout"],
            http_client=http,
        )
        sdk = Sdk(
            client,
            http,
            APIStatusError,
            APIConnectionError,
            no_key=Omit(),
            request_id_header="x-request-id",
            requests_header="x-ratelimit-remaining-requests",
            tokens_headers=("x-ratelimit-remaining-tokens",),
            parameters=self.parameters,
        )
        super().__init__(settings, Upstream(sdk, settings, build_keyring(settings, clock), clock), clock)
        self._official = settings.kind is ProviderKindName.OPENAI
        if self._official:
            self.call_names = CallNames("call_", max_id_length=40, max_name_length=64)

    def encode(self, call: ModelCall, notes: Notes, *, stream: bool) -> EncodedRequest:
        untaken = self.untaken.of(call.model, call.reasoning_effort)
        body = encode_request(call, notes, untaken, official=self._official, stream=stream)
        return EncodedRequest(body, given_back=given_back(call))

    def settled_effort(self, call: ModelCall) -> ReasoningEffort | None:
        untaken = self.untaken.of(call.model, call.reasoning_effort)
        return None if call.reasoning_effort is None else settle_effort(call.reasoning_effort, untaken)

    def read_answer(self, raw: bytes, call: ModelCall, notes: Notes) -> WholeAnswer:
        return read_answer(raw, call, notes)

    def read_billed(self, body: Mapping[str, object], call: ModelCall, output_bytes: int) -> TokenUsage | None:
        return read_billed(body, call, output_bytes)

    def reader(self, call: ModelCall, notes: Notes, provider_request_id: str | None) -> OpenAIStream:
        return OpenAIStream(call, notes, provider_request_id)

    async def embed(self, call: EmbedCall) -> Embedded:
        """Vectors whose length is not `dimensions` are a SCHEMA_MISMATCH, because a server that ignores `dimensions` must not
        go unnoticed."""
        failure: ProviderError | None = None
        try:
            begun = await self._send_embedding(call)
        except BrokenAnswer as broken:
            begun, failure = broken.begun, broken
        except ErrorAnswer as reported:
            reported.usage = _billed(reported.billed, call)
            raise
        except ProviderError as error:
            if error.unanswered_seconds is not None:
                error.usage = estimated_embedding_usage(call)
            raise
        response, raw = begun.response, as_utf8(begun.body)
        request_id = self.upstream.request_id(response)
        try:
            vectors, figures, model = read_embeddings(raw, len(call.texts))
        except Malformed:
            failure = failure or ProviderError(
                FailureKind.MALFORMED, status_code=response.status_code, provider_request_id=request_id
            )
            failure.usage = salvaged_embedding_usage(raw, call, is_cut=isinstance(failure, BrokenAnswer))
            raise failure from None
        except ProviderError as error:
            error.provider_request_id, error.usage = request_id, _billed(read_object(raw)[0], call)
            raise
        usage = embedding_usage(figures, call)
        if call.dimensions is not None and any(len(vector) != call.dimensions for vector in vectors):
            raise ProviderError(
                FailureKind.SCHEMA_MISMATCH,
                status_code=response.status_code,
                provider_request_id=request_id,
                usage=usage,
            )
        return Embedded(
            vectors=vectors,
            usage=usage,
            model=clean(model or call.model),
            status_code=response.status_code,
            provider_request_id=request_id,
            rate_limits=self.upstream.rate_limits(response),
        )

    async def _send_embedding(self, call: EmbedCall) -> Begun:
        """Sends again only if a server has named a parameter that it does not take."""
        while True:
            try:
                return await self.upstream.post(
                    "/embeddings",
                    EncodedRequest(encode_embedding(call, self.untaken.of(call.model))),
                    model=call.model,
                    deadline=silence_deadline(call, self._clock.monotonic()),
                    answer_timeout=embedding_timeout(self._settings.timeouts, call),
                    holder=call.holder,
                )
            except ParameterRefused as refused:
                if not self.untaken.learn(refused.parameter, call.model):
                    raise


def _billed(body: Mapping[str, object], call: EmbedCall) -> TokenUsage | None:
    """Returns the usage that an error reports; None if it reports none."""
    figures = openai_figures_of(body)
    return embedding_usage(figures, call) if figures.is_billed else None
