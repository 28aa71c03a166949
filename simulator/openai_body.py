"""The fields of a request to OpenAI's Chat Completions."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Raw


class File(msgspec.Struct):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class Part(msgspec.Struct):
    type: Literal["text", "image_url", "input_audio", "file", "refusal"]
    text: str | None = None
    refusal: str | None = None
    file: File | None = None


class Function(msgspec.Struct):
    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct):
    id: str
    function: Function
    type: str = "function"


class Message(msgspec.Struct):
    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class FunctionTool(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: Raw = Raw(b"{}")
    strict: bool | None = None


class Tool(msgspec.Struct):
    function: FunctionTool
    type: Literal["function"] = "function"


class Named(msgspec.Struct):
    name: str


class NamedChoice(msgspec.Struct):
    function: Named
    type: Literal["function"] = "function"


class JsonSchema(msgspec.Struct):
    name: str
    schema: Raw = Raw(b"{}")
    strict: bool | None = None


class ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Body(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    messages: Raw
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = None
    user: str | None = None
    safety_identifier: str | None = None
    audio: Raw = Raw(b"")
    frequency_penalty: float | None = None
    function_call: Raw = Raw(b"")
    functions: Raw = Raw(b"")
    logit_bias: Raw = Raw(b"")
    logprobs: bool | None = None
    metadata: dict[str, str] | None = None
    modalities: list[str] | None = None
    moderation: Raw = Raw(b"")
    prediction: Raw = Raw(b"")
    presence_penalty: float | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Raw = Raw(b"")
    prompt_cache_retention: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    top_logprobs: int | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    web_search_options: Raw = Raw(b"")
