"""Calls and providers for the adapters' tests."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import ProviderError
from app.llm.messages import AnswerEnd, Message, ModelCall, Role, StreamPart, Text, TextDelta, Tool, ToolCallDelta
from app.llm.provider import Provider
from app.llm.providers.adapter import Adapter
from app.llm.providers.anthropic.client import AnthropicProvider
from app.llm.providers.openai.client import OpenAIProvider
from app.runtime.clock import Clock, SystemClock
from app.secrets.reference import SecretReference
from app.settings import ProviderKindName, ProviderSettings, ProviderTimeouts

ANTHROPIC, OPENAI, COMPATIBLE = ProviderKindName.ANTHROPIC, ProviderKindName.OPENAI, ProviderKindName.OPENAI_COMPATIBLE
MODELS = {ANTHROPIC: "claude-sonnet-5-5", OPENAI: "gpt-5.4-mini", COMPATIBLE: "sim-small"}
WEATHER = Tool(
    "weather",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "Says how the weather is.",
)
SHORT = ProviderTimeouts(first_token=timedelta(seconds=0.3), idle=timedelta(seconds=0.2))


def user(text: str) -> Message:
    return Message(Role.USER, (Text(text),))


def call(model: str, *messages: Message, clock: Clock | None = None, seconds: float = 10.0, **fields: Any) -> ModelCall:
    """A call with a deadline so many seconds from now."""
    now = (clock or SystemClock()).monotonic()
    given = {"messages": messages or (user("Hello there"),), "max_output_tokens": 64, "deadline": now + seconds, **fields}
    return ModelCall(model=model, **given)


def settings(kind: ProviderKindName, base_url: str | None, **fields: Any) -> ProviderSettings:
    return ProviderSettings(name=f"my-{kind.value}", kind=kind, base_url=base_url, **{"simulated": True, **fields})


def adapter(kind: ProviderKindName, base_url: str | None, clock: Clock | None = None, **fields: Any) -> Adapter:
    made = AnthropicProvider if kind is ANTHROPIC else OpenAIProvider
    return made(settings(kind, base_url, **fields), clock or SystemClock())


def key_file(folder: Path, name: str, secret: str) -> SecretReference:
    (folder / name).write_text(secret)
    return SecretReference(file=folder / name)


async def parts_of(provider: Provider, wanted: ModelCall) -> list[StreamPart]:
    return [part async for part in provider.stream(wanted)]


def streamed_text(parts: list[StreamPart]) -> str:
    return "".join(part.text for part in parts if isinstance(part, TextDelta))


def streamed_arguments(parts: list[StreamPart]) -> dict[str, str]:
    """Arguments by the id of their tool call."""
    arguments: dict[str, str] = {}
    for part in parts:
        if isinstance(part, ToolCallDelta):
            arguments[part.tool_call_id] = arguments.get(part.tool_call_id, "") + part.arguments_delta
    return arguments


def end_of(parts: list[StreamPart]) -> AnswerEnd:
    """The last part, which must be the only end."""
    ends = [part for part in parts if isinstance(part, AnswerEnd)]
    assert ends == parts[-1:]
    return ends[0]


async def failure(provider: Adapter, model: str, *, streamed: bool, seconds: float = 10.0) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await (parts_of(provider, call(model, seconds=seconds)) if streamed else provider.complete(call(model, seconds=seconds)))
    return caught.value
