"""Writes completions, embeddings, models and failures in the form of OpenAI's API."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Iterable
from typing import Final

from app.domain.money import format_decimal
from app.domain.usage import TokenUsage
from app.doors.failures import Failure
from app.gateway.completions import Completion
from app.gateway.embeddings import Embeddings
from app.llm.fleet import Fleet, ModelInfo
from app.llm.messages import FinishReason, ToolCall

FINISH: Final = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.TOOL_CALLS: "tool_calls",
    FinishReason.CONTENT_FILTER: "content_filter",
    FinishReason.CANCELLED: "stop",
}


def chat_completion(completion: Completion, asked_model: str) -> dict[str, object]:
    message: dict[str, object] = {"role": "assistant", "content": completion.text, "refusal": None, "annotations": []}
    if completion.tool_calls:
        message["tool_calls"] = [_tool_call(call) for call in completion.tool_calls]
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": FINISH[completion.finish_reason or FinishReason.STOP],
    }
    return {
        "id": completion.id,
        "object": "chat.completion",
        "created": int(completion.created_at.timestamp()),
        "model": completion.model or asked_model,
        "choices": [choice],
        "usage": usage_of(completion),
    }


def usage_of(completion: Completion) -> dict[str, object]:
    """With the cost, which a stream has no header for."""
    usage = completion.usage or TokenUsage()
    cost = None if completion.cost_usd is None else format_decimal(completion.cost_usd)
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": 0},
        "x_greenlang": {"cost_usd": cost, "provider": completion.provider, "model": completion.model},
    }


def _tool_call(call: ToolCall) -> dict[str, object]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def embeddings_list(found: Embeddings, *, as_base64: bool) -> dict[str, object]:
    """`as_base64`: vectors are little-endian 32-bit floats, as the SDK asks for them."""
    tokens = found.usage.input_tokens
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector) if as_base64 else list(vector)}
        for index, vector in enumerate(found.vectors)
    ]
    return {"object": "list", "data": data, "model": found.model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _encoded(vector: Iterable[float]) -> str:
    return base64.b64encode(array("f", vector).tobytes()).decode("ascii")


def models_list(fleet: Fleet) -> dict[str, object]:
    """Routes first, then every model as `provider/model`."""
    routes = [_model(route.name, "greenlang", {"targets": list(route.targets)}) for route in fleet.routes()]
    models = [_model(f"{each.provider}/{each.name}", each.provider, _sizes(each)) for each in fleet.models()]
    return {"object": "list", "data": [*routes, *models]}


def _model(name: str, owner: str, further: dict[str, object]) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner, "x_greenlang": further}


def _sizes(model: ModelInfo) -> dict[str, object]:
    return {"context_tokens": model.context_tokens, "max_output_tokens": model.max_output_tokens}


def error_body(failure: Failure) -> dict[str, object]:
    found = {"message": failure.message, "type": failure.kind, "param": failure.field, "code": failure.code}
    return {"error": found | dict(failure.extra)}
