"""No field of a request can be forgotten: not in the hash behind its idempotency key, and not on the way to the provider."""

from __future__ import annotations

from dataclasses import fields as dataclass_fields
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from app.domain.usage import Label
from app.gateway.completions import CachePolicy, CompletionRequest, OnClientLeave
from app.gateway.statements import Grounding, PassageReference
from app.llm.messages import (
    AskedTier,
    CacheTtl,
    InlinePdf,
    JsonSchemaFormat,
    Message,
    ModelCall,
    NamedTool,
    ProviderState,
    ReasoningEffort,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from app.llm.routing import RoutingPreference
from app.runtime.request_hash import digest

TOOL = Tool("now", {"type": "object"})
RESULT = ToolResult("1", "Rome")
MESSAGE = Message(Role.USER, (Text("Hi"),))
FORMAT = JsonSchemaFormat("total", {"type": "object"})
PDF = InlinePdf("x", 1)
ELSEWHERE: dict[str, tuple[Any, Any]] = {
    "messages": ((MESSAGE,), (Message(Role.USER, (Text("Ho"),)),)),
    "model": ("a/m", "b/n"),
    "tools": ((), (TOOL,)),
    "tool_choice": (None, NamedTool("now")),
    "response_format": (None, FORMAT),
    "max_output_tokens": (1, 2),
    "min_output_tokens": (None, 1),
    "reasoning_effort": (ReasoningEffort.HIGH, ReasoningEffort.MAX),
    "temperature": (None, 0.0),
    "top_p": (None, 1.0),
    "stop": ((), ("a",)),
    "seed": (None, 0),
    "parallel_tool_calls": (None, False),
    "service_tier": (AskedTier.FLEX, AskedTier.FAST),
    "provider_options": (None, {"openai": {"verbosity": "low"}}),
    "routing": (RoutingPreference(), RoutingPreference(only=("a",))),
    "cache": (None, CachePolicy()),
    "agent": (None, "research"),
    "labels": ((), (Label("team", "heat"),)),
    "timeout": (None, timedelta(seconds=1)),
    "idempotency_key": ("k", "l"),
    "restart": (False, True),
    "stream_reasoning": (False, True),
    "on_client_leave": (OnClientLeave.CANCEL, OnClientLeave.CONTINUE),
    "grounding": (None, Grounding(b"question")),
}
INSIDE: dict[str, Any] = {
    "role": Role.SYSTEM,
    "parts": (Text("Ho"),),
    "tool_calls": (ToolCall("1", "now", "{}"),),
    "tool_result": RESULT,
    "reasoning": {"thought": "hm"},
    "cache_up_to": True,
    "cache_ttl": CacheTtl.ONE_HOUR,
    "name": "other",
    "parameters": {"type": "array"},
    "schema": {"type": "array"},
    "description": "Says the time.",
    "strict": False,
    "id": "2",
    "content": "Bern",
    "is_error": True,
    "data": "y",
    "pages": 2,
    "provider_state": ProviderState("a", "openai", "{}"),
}
REQUEST = CompletionRequest((MESSAGE,))
KEPT_HERE = {"model", "min_output_tokens", "routing", "cache", "agent", "labels", "timeout", "idempotency_key"} | {
    "restart",
    "stream_reasoning",
    "on_client_leave",
    "grounding",
}
"""Fields that no provider is sent."""


class TestTheHashChangesWithEveryField:
    @pytest.mark.parametrize("name", [each.name for each in dataclass_fields(CompletionRequest)])
    def test_of_the_request(self, name: str) -> None:
        """A new field needs another value here, so it cannot be forgotten in the hash."""
        one, other = ELSEWHERE[name]
        assert digest(replace(REQUEST, **{name: one})) != digest(replace(REQUEST, **{name: other}))

    @pytest.mark.parametrize(
        ("whole", "name"),
        [(whole, each.name) for whole in (MESSAGE, TOOL, RESULT, FORMAT, PDF) for each in dataclass_fields(whole)],
        ids=lambda value: value if isinstance(value, str) else type(value).__name__,
    )
    def test_inside_the_request(self, whole: Any, name: str) -> None:
        other = replace(whole, **{name: INSIDE[name]})
        assert digest(whole) != digest(other)


def test_a_repeat_of_a_question_may_find_other_passages() -> None:
    first = replace(REQUEST, grounding=Grounding(b"question", (PassageReference(UUID(int=1), 0.9),)))
    repeat = CompletionRequest((Message(Role.USER, (Text("Other passages"),)),), grounding=Grounding(b"question"))

    assert digest(first.as_asked()) == digest(repeat.as_asked())
    assert digest(first.as_asked()) != digest(replace(first, grounding=Grounding(b"another")).as_asked())
    assert digest(first.as_asked()) != digest(replace(first, model="a/m").as_asked())
    assert REQUEST.as_asked() == REQUEST


def test_every_other_field_is_one_of_the_call_to_a_provider() -> None:
    sent = {each.name for each in dataclass_fields(ModelCall)}
    assert {each.name for each in dataclass_fields(CompletionRequest)} - KEPT_HERE <= sent
