"""The fields of a request to Anthropic's Messages API."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from simulator.anthropic_source import Source


class _Lax(msgspec.Struct, omit_defaults=True):
    pass


class CacheControl(_Lax):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] = "5m"


class Block(_Lax):
    type: str
    text: str | None = None
    source: Source | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = Raw(b"")
    tool_use_id: str | None = None
    content: str | list[Block] | None = None
    is_error: bool | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    title: str | None = None
    context: str | None = None
    cache_control: CacheControl | None = None


class Message(_Lax):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(_Lax):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: Raw = Raw(b"")
    strict: bool = False
    cache_control: CacheControl | None = None


class ToolChoice(_Lax):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(_Lax):
    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] = "summarized"


class Format(_Lax):
    type: Literal["json_schema"]
    schema: Raw


class OutputConfig(_Lax):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: Format | None = None


class Metadata(_Lax):
    user_id: str | None = None


class Body(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    messages: Raw
    max_tokens: int
    system: str | list[Block] | None = None
    stream: bool = False
    tools: list[Tool] = []
    tool_choice: ToolChoice | None = None
    stop_sequences: list[str] = []
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    speed: Literal["standard", "fast"] | None = None
    temperature: float | UnsetType = UNSET
    top_p: float | UnsetType = UNSET
    top_k: int | UnsetType = UNSET
    container: Raw = Raw(b"")
    diagnostics: Raw = Raw(b"")
    inference_geo: str | None = None
    user_profile_id: str | None = None
    workspace_id: str | None = None


class CountBody(msgspec.Struct):
    model: str
    messages: list[Message]
    system: str | list[Block] | None = None
    tools: list[Tool] = []
