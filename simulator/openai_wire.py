"""OpenAI's Chat Completions and Embeddings on the wire: bodies, chunks, errors, usage."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec

from simulator import embeddings, openai_request
from simulator.answers import Answer, Ask, Stop, call_tokens
from simulator.embedding_request import Embedding
from simulator.faults import Fault
from simulator.models import ProviderName
from simulator.prefix_cache import PrefixCache
from simulator.protocol import Frame, FrameKind, Rejected
from simulator.structured import Json
from simulator.text import escaped, pieces

_encode = msgspec.json.Encoder().encode
_ERRORS = {
    400: ("invalid_request_error", None, "The request was invalid."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    402: (
        "insufficient_quota",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    403: ("invalid_request_error", "unsupported_country_region_territory", "Country, region, or territory not supported"),
    404: ("invalid_request_error", None, "Not found"),
    408: ("timeout", None, "The request timed out."),
    409: ("invalid_request_error", None, "The resource was changed by another request."),
    413: ("invalid_request_error", None, "The request is too large."),
    422: ("invalid_request_error", None, "The request could not be processed."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached. Please try again later."),
    500: ("server_error", None, "The server had an error while processing your request. Sorry about that!"),
    503: ("server_error", None, "The engine is currently overloaded, please try again later"),
}
_STOPS = {
    Stop.END: "stop",
    Stop.LENGTH: "length",
    Stop.SEQUENCE: "stop",
    Stop.TOOLS: "tool_calls",
    Stop.FILTERED: "content_filter",
    Stop.REFUSED: "stop",
}


class OpenAIWire:
    """Speaks `POST /v1/chat/completions`."""

    name: ProviderName = "openai"
    request_id_header = b"x-request-id"

    def __init__(self, cache: PrefixCache) -> None:
        self._cache = cache

    def parse(self, body: bytes, key: str, version: str) -> Ask:  # noqa: ARG002 -- OpenAI has one version
        return openai_request.parse(body, key, self._cache)

    def rejection(self, rejected: Rejected, request_id: str) -> bytes:  # noqa: ARG002 -- OpenAI's bodies have no id
        return _encode({"error": _error(rejected)})

    def usage(self, ask: Ask, answer: Answer, output_tokens: int) -> dict[str, Json]:
        given = ask.input
        prompt: dict[str, Json] = {"cached_tokens": given.read, "audio_tokens": 0}
        if ask.model.reports_cache_writes:
            prompt["cache_write_tokens"] = given.write_5m
        return {
            "prompt_tokens": given.total,
            "completion_tokens": output_tokens,
            "total_tokens": given.total + output_tokens,
            "prompt_tokens_details": prompt,
            "completion_tokens_details": {
                "reasoning_tokens": min(answer.thinking_tokens, output_tokens),
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def body(self, ask: Ask, answer: Answer, answer_id: str, fault: Fault) -> bytes:
        refused = answer.stop is Stop.REFUSED
        message: dict[str, Json] = {
            "role": "assistant",
            "content": None if refused or answer.calls else answer.text,
            "refusal": answer.text if refused else None,
            "annotations": [],
        }
        if answer.thinking_field is not None:
            message[answer.thinking_field] = answer.thinking
        if answer.calls:
            message["tool_calls"] = [
                {"id": f"call_{call.id}", "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in answer.calls
            ]
        choice: dict[str, Json] = {"index": 0, "message": message, "logprobs": None, "finish_reason": _STOPS[answer.stop]}
        completion: dict[str, Json] = {
            "id": answer_id,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": ask.model.name,
            "choices": [choice],
            "usage": self.usage(ask, answer, answer.output_tokens),
            "service_tier": ask.service_tier or "default",
            "system_fingerprint": None,
        }
        if fault == "no_usage":
            del completion["usage"]
        if fault == "no_finish_reason":
            del choice["finish_reason"]
        return escaped(completion) if fault == "surrogate" else _encode(completion)

    def frames(self, ask: Ask, answer: Answer, answer_id: str, fault: Fault) -> Iterator[Frame]:
        usage = b',"usage":null}\n\n' if ask.include_usage else b"}\n\n"
        about: dict[str, Json] = {
            "id": answer_id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": ask.model.name,
            "service_tier": ask.service_tier or "default",
            "system_fingerprint": None,
        }
        head = b"data: " + _encode(about)[:-1] + b","
        middle = head + b'"choices":[{"index":0,"delta":'
        tail = b',"logprobs":null,"finish_reason":null}]' + usage
        for delta, tokens, counts in _deltas(answer, odd=fault == "surrogate"):
            yield Frame(middle + delta + tail, tokens, FrameKind.DELTA if counts else FrameKind.HEAD)
        total = answer.output_tokens
        reason = b"null" if fault == "no_finish_reason" else b'"%s"' % _STOPS[answer.stop].encode()
        yield Frame(middle + b'{},"logprobs":null,"finish_reason":' + reason + b"}]" + usage, total, FrameKind.CLOSING)
        if ask.include_usage and fault != "no_usage":
            yield Frame(
                head + b'"choices":[],"usage":' + _encode(self.usage(ask, answer, total)) + b"}\n\n", total, FrameKind.CLOSING
            )
        if fault != "no_done":
            yield Frame(b"data: [DONE]\n\n", total, FrameKind.CLOSING)

    def stream_error(self, rejected: Rejected, request_id: str) -> bytes:  # noqa: ARG002 -- OpenAI's bodies have no id
        return b"data: " + _encode({"error": _error(rejected)}) + b"\n\n"

    def malformed_frame(self) -> bytes:
        return b'data: {"id":"chatcmpl-broken","object":"chat.completion.chunk","choices":[{"index":0,"del\n\n'


def embedding_usage(asked: Embedding) -> dict[str, Json]:
    return {"prompt_tokens": asked.tokens, "total_tokens": asked.tokens}


def embedding_body(asked: Embedding) -> bytes:
    """The answer of `POST /v1/embeddings`."""
    usage = embedding_usage(asked)
    data: list[Json] = []
    for index, text in enumerate(asked.texts):
        values = embeddings.vector(text, asked.dimensions)
        data.append(
            {"object": "embedding", "index": index, "embedding": embeddings.encoded(values) if asked.base64 else [*values]}
        )
    return _encode({"object": "list", "data": data, "model": asked.model.name, "usage": usage})


def _error(rejected: Rejected) -> Json:
    kind, code, message = _ERRORS.get(rejected.status, _ERRORS[500])
    given = rejected.message or rejected.kind or rejected.code
    return {
        "message": rejected.message or message,
        "type": rejected.kind or kind,
        "param": rejected.param,
        "code": rejected.code if given else code,
    }


def _deltas(answer: Answer, *, odd: bool) -> Iterator[tuple[bytes, int, bool]]:
    """Each delta as JSON, the tokens made so far, and whether it carries any."""
    word = b"refusal" if answer.stop is Stop.REFUSED else b"content"
    first = b"null" if answer.calls else b'""'
    yield b'{"role":"assistant","content":' + first + b',"refusal":null}', 0, False
    for made, piece in enumerate(pieces(answer.thinking) if answer.thinking_field else (), start=1):
        yield _encode({answer.thinking_field: piece}), made, True
    encode = escaped if odd else _encode
    made = answer.thinking_tokens
    for piece in pieces(answer.text):
        made += 1
        yield b'{"%s":%s}' % (word, encode(piece)), made, True
    for index, call in enumerate(answer.calls):
        begin: Json = {
            "index": index, "id": f"call_{call.id}", "type": "function", "function": {"name": call.name, "arguments": ""},
        }  # fmt: skip
        yield _encode({"tool_calls": [begin]}), made, False
        made += call_tokens(call) - len(pieces(call.arguments))
        for piece in pieces(call.arguments):
            made += 1
            yield _encode({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}), made, True
