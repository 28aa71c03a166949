"""Anthropic's Messages API on the wire: bodies, events, errors, usage."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from simulator import anthropic_request
from simulator.answers import Answer, Ask, Stop, call_tokens, signature
from simulator.faults import Fault
from simulator.models import ProviderName
from simulator.prefix_cache import PrefixCache
from simulator.protocol import Frame, FrameKind, Rejected
from simulator.structured import Json
from simulator.text import escaped, pieces

_encode = msgspec.json.Encoder().encode
_ERRORS = {
    400: ("invalid_request_error", "The request was invalid."),
    401: ("authentication_error", "invalid x-api-key"),
    402: ("billing_error", "Your credit balance is too low to access the Anthropic API."),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "Not found"),
    408: ("timeout_error", "The request timed out."),
    409: ("conflict_error", "The request conflicts with another one."),
    413: ("request_too_large", "Request exceeds the maximum size"),
    422: ("invalid_request_error", "The request could not be processed."),
    429: ("rate_limit_error", "This request would exceed your organization's rate limit."),
    504: ("timeout_error", "The request timed out."),
    529: ("overloaded_error", "Overloaded"),
}
_STOPS = {
    Stop.END: "end_turn",
    Stop.LENGTH: "max_tokens",
    Stop.SEQUENCE: "stop_sequence",
    Stop.TOOLS: "tool_use",
    Stop.FILTERED: "refusal",
    Stop.REFUSED: "refusal",
}
_REFUSAL: Json = {
    "type": "refusal",
    "category": "general_harms",
    "explanation": "This request was declined by a safety classifier.",
}


class AnthropicWire:
    """Speaks `POST /v1/messages`."""

    name: ProviderName = "anthropic"
    request_id_header = b"request-id"

    def __init__(self, cache: PrefixCache) -> None:
        self._cache = cache

    def parse(self, body: bytes, key: str, version: str) -> Ask:
        return anthropic_request.parse(body, key, self._cache, version)

    def rejection(self, rejected: Rejected, request_id: str) -> bytes:
        kind, message = _ERRORS.get(rejected.status, ("api_error", "Internal server error"))
        error: dict[str, Json] = {"type": rejected.kind or kind, "message": rejected.message or message}
        if rejected.code is not None:
            error["details"] = {"error_code": rejected.code}
        return _encode({"type": "error", "error": error, "request_id": request_id})

    def usage(self, ask: Ask, answer: Answer, output_tokens: int) -> dict[str, Json]:
        given = ask.input
        usage: dict[str, Json] = {
            "input_tokens": given.uncached,
            "cache_creation_input_tokens": given.write_5m + given.write_1h,
            "cache_read_input_tokens": given.read,
            "cache_creation": {"ephemeral_5m_input_tokens": given.write_5m, "ephemeral_1h_input_tokens": given.write_1h},
            "output_tokens": output_tokens,
            "service_tier": "standard",
            "inference_geo": "not_available",
        }
        if ask.service_tier is not None:
            usage["speed"] = ask.service_tier
        if answer.thinking_tokens:
            usage["output_tokens_details"] = {"thinking_tokens": min(answer.thinking_tokens, output_tokens)}
        return usage

    def body(self, ask: Ask, answer: Answer, answer_id: str, fault: Fault) -> bytes:
        message = _message(ask, answer_id)
        message["content"] = _content(ask, answer)
        message.update(_stop(answer, fault))
        message["usage"] = self.usage(ask, answer, answer.output_tokens)
        if fault == "no_usage":
            del message["usage"]
        return escaped(message) if fault == "surrogate" else _encode(message)

    def frames(self, ask: Ask, answer: Answer, answer_id: str, fault: Fault) -> Iterator[Frame]:
        message = _message(ask, answer_id)
        started = self.usage(ask, answer, 1)
        started.pop("output_tokens_details", None)
        if fault != "no_usage":
            message["usage"] = started
        yield Frame(_event("message_start", {"type": "message_start", "message": message}), 0)
        yield Frame(b'event: ping\ndata: {"type": "ping"}\n\n', 0)
        yield from _blocks(ask, answer, fault)
        end: dict[str, Json] = {"type": "message_delta", "delta": _stop(answer, fault)}
        if fault != "no_usage":
            end["usage"] = _closing_usage(self.usage(ask, answer, answer.output_tokens))
        yield Frame(_event("message_delta", end), answer.output_tokens, FrameKind.CLOSING)
        if fault != "no_done":
            yield Frame(b'event: message_stop\ndata: {"type":"message_stop"}\n\n', answer.output_tokens, FrameKind.CLOSING)

    def stream_error(self, rejected: Rejected, request_id: str) -> bytes:
        return b"event: error\ndata: " + self.rejection(rejected, request_id) + b"\n\n"

    def malformed_frame(self) -> bytes:
        return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_de\n\n'


def _message(ask: Ask, answer_id: str) -> dict[str, Json]:
    return {
        "id": answer_id,
        "type": "message",
        "role": "assistant",
        "model": ask.model.name,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
    }


def _stop(answer: Answer, fault: Fault) -> dict[str, Json]:
    refused = answer.stop in {Stop.FILTERED, Stop.REFUSED}
    return {
        "stop_reason": None if fault == "no_finish_reason" else _STOPS[answer.stop],
        "stop_sequence": answer.stopped_at,
        "stop_details": _REFUSAL if refused else None,
    }


def _closing_usage(usage: dict[str, Json]) -> dict[str, Json]:
    names = (
        "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens", "output_tokens_details",
    )  # fmt: skip
    return {name: usage[name] for name in names if name in usage}


def _content(ask: Ask, answer: Answer) -> list[Json]:
    content: list[Json] = []
    if answer.thinking_tokens:
        shown = answer.thinking if ask.show_thinking else ""
        content.append({"type": "thinking", "thinking": shown, "signature": signature(shown, ask.model.name)})
    if answer.text:
        content.append({"type": "text", "text": answer.text, "citations": None})
    content += [
        {"type": "tool_use", "id": f"toolu_01{call.id}", "name": call.name, "input": _input(call.arguments)}
        for call in answer.calls
    ]
    return content


def _input(arguments: str) -> Json:
    """Arguments that are cut off at max_tokens become an empty object."""
    try:
        value: Json = msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return {}
    return value


def _blocks(ask: Ask, answer: Answer, fault: Fault) -> Iterator[Frame]:
    index = 0
    if answer.thinking_tokens:
        yield from _thinking_block(ask, answer)
        index += 1
    made = answer.thinking_tokens
    if answer.text:
        start: Json = {"type": "text", "text": ""}
        yield Frame(_event("content_block_start", {"type": "content_block_start", "index": index, "content_block": start}), made)
        for piece in pieces(answer.text):
            made += 1
            yield Frame(_delta(index, "text_delta", "text", piece, odd=fault == "surrogate"), made, FrameKind.DELTA)
        yield _block_stop(index, made)
        index += 1
    for call in answer.calls:
        use: Json = {"type": "tool_use", "id": f"toolu_01{call.id}", "name": call.name, "input": {}}
        yield Frame(_event("content_block_start", {"type": "content_block_start", "index": index, "content_block": use}), made)
        yield Frame(_delta(index, "input_json_delta", "partial_json", ""), made)
        made += call_tokens(call) - len(pieces(call.arguments))
        for piece in pieces(call.arguments):
            made += 1
            yield Frame(_delta(index, "input_json_delta", "partial_json", piece), made, FrameKind.DELTA)
        yield _block_stop(index, made)
        index += 1


def _thinking_block(ask: Ask, answer: Answer) -> Iterator[Frame]:
    start: Json = {"type": "thinking", "thinking": "", "signature": ""}
    yield Frame(_event("content_block_start", {"type": "content_block_start", "index": 0, "content_block": start}), 0)
    shown = answer.thinking if ask.show_thinking else ""
    for made, piece in enumerate(pieces(shown), start=1):
        yield Frame(_delta(0, "thinking_delta", "thinking", piece), made, FrameKind.DELTA)
    yield Frame(_delta(0, "signature_delta", "signature", signature(shown, ask.model.name)), answer.thinking_tokens)
    yield _block_stop(0, answer.thinking_tokens)


def _block_stop(index: int, tokens: int) -> Frame:
    return Frame(b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % index, tokens)


def _delta(index: int, kind: str, word: str, text: str, *, odd: bool = False) -> bytes:
    return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%s","%s":%s}}\n\n' % (
        index,
        kind.encode(),
        word.encode(),
        escaped(text) if odd else _encode(text),
    )


def _event(name: str, data: Json) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), _encode(data))
