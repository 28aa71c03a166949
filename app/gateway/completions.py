"""Completions: the request and the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Final
from uuid import UUID

import msgspec

from app.domain.attempts import Attempt
from app.domain.ids import format_id
from app.domain.problems import no_such
from app.domain.usage import CacheTier, Label, Operation, TokenUsage
from app.gateway.media import part_texts
from app.gateway.statements import Grounding, PassageReference
from app.llm.messages import (
    AskedTier,
    FinishReason,
    Json,
    Message,
    ProviderState,
    ReasoningEffort,
    ResponseFormat,
    Tool,
    ToolCall,
    ToolChoice,
)
from app.llm.routing import RoutingPreference

NO_SUCH_COMPLETION: Final = no_such("completion, or it is no longer kept")


class CompletionStatus(Enum):
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class OnClientLeave(Enum):
    """What happens to a streamed call if the operation that started it ends before the call does."""

    CANCEL = "CANCEL"
    CONTINUE = "CONTINUE"


class CacheMode(Enum):
    OFF = "OFF"
    USE = "USE"
    REFRESH = "REFRESH"


@dataclass(frozen=True, slots=True)
class CachePolicy:
    mode: CacheMode = CacheMode.USE
    ttl: timedelta | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """`model` is `provider/model` or a route's name; None is the route `default`. `grounding` is that of an answer from
    passages."""

    messages: tuple[Message, ...]
    model: str | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    response_format: ResponseFormat | None = None
    max_output_tokens: int | None = None
    min_output_tokens: int | None = None
    reasoning_effort: ReasoningEffort | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    parallel_tool_calls: bool | None = None
    service_tier: AskedTier | None = None
    provider_options: Mapping[str, Mapping[str, Json]] | None = None
    routing: RoutingPreference = RoutingPreference()
    cache: CachePolicy | None = None
    agent: str | None = None
    labels: tuple[Label, ...] = ()
    timeout: timedelta | None = None
    idempotency_key: str | None = None
    restart: bool = False
    stream_reasoning: bool = False
    on_client_leave: OnClientLeave = OnClientLeave.CONTINUE
    grounding: Grounding | None = None

    @property
    def operation(self) -> Operation:
        return Operation.COMPLETION if self.grounding is None else Operation.ANSWER

    @property
    def passages(self) -> tuple[PassageReference, ...]:
        return () if self.grounding is None else self.grounding.passages

    def as_asked(self) -> CompletionRequest:
        """The part of the request that a repeat has too: without the passages that were found for it."""
        if self.grounding is None:
            return self
        return replace(self, messages=(), grounding=Grounding(self.grounding.asked))


@dataclass(frozen=True, slots=True)
class CacheHit:
    tier: CacheTier
    age_seconds: float
    saved_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class Completion:
    """`problem` is a frozen dataclass that says why the call failed. `cost_usd` is None if the price of any attempt is
    unknown. `passages` are those that an answer was made from."""

    key: UUID
    status: CompletionStatus
    tenant: str
    created_at: datetime
    text: str | None = None
    reasoning: Json = None
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason | None = None
    problem: object | None = None
    notes: tuple[str, ...] = ()
    requested_model: str | None = None
    route: str | None = None
    output_cap_tokens: int | None = None
    capped_by_budget: bool = False
    provider: str | None = None
    model: str | None = None
    usage: TokenUsage | None = None
    cost_usd: Decimal | None = None
    cache: CacheHit | None = None
    cache_key: str | None = None
    attempts: tuple[Attempt, ...] = ()
    latency_ms: float | None = None
    overhead_ms: float | None = None
    first_token_ms: float | None = None
    agent: str | None = None
    labels: tuple[Label, ...] = ()
    finished_at: datetime | None = None
    provider_state: ProviderState | None = None
    passages: tuple[PassageReference, ...] = ()

    @property
    def id(self) -> str:
        return format_id("cmp", self.key)


def prompt_texts(request: CompletionRequest) -> Iterator[str]:
    """All parts of a request that a model reads as text."""
    for message in request.messages:
        yield from part_texts(message.parts)
        for call in message.tool_calls:
            yield call.name
            yield call.arguments
            if call.provider_state is not None:
                yield call.provider_state.fields
        if message.tool_result is not None:
            yield message.tool_result.content
            yield from part_texts(message.tool_result.parts)
        if message.reasoning is not None:
            yield msgspec.json.encode(message.reasoning).decode()
        if message.provider_state is not None:
            yield message.provider_state.fields
    if request.tools or request.response_format is not None:
        yield msgspec.json.encode((request.tools, request.response_format)).decode()
