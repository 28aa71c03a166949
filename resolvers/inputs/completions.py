"""The input of a completion. Everything is checked here, before anything is held or sent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import cast

import strawberry
from strawberry import field
from strawberry.scalars import JSON

from app.gateway.completions import CacheMode, CachePolicy, CompletionRequest, OnClientLeave
from app.llm.messages import (
    AskedTier,
    CacheTtl,
    Json,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    NamedTool,
    ReasoningEffort,
    ResponseFormat,
    Role,
    Tool,
    ToolChoice,
    ToolChoiceMode,
)
from app.llm.routing import RoutingPreference, RoutingStrategy
from resolvers.inputs.checks import (
    Path,
    check_count,
    check_distinct,
    check_length,
    check_names,
    check_range,
    check_texts,
    invalid,
)
from resolvers.inputs.labels import LabelInput, to_labels
from resolvers.inputs.messages import CACHE_MARK, CACHE_TTL, MessageInput
from resolvers.inputs.provider_options import to_provider_options

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ASKING = frozenset({Role.USER, Role.TOOL})
_FEW_PIECES = 200
MAX_TOKENS = 10_000_000
_MAX_MESSAGES = 2048
_MAX_TOOLS = 128
_MAX_STOPS = 4
_MAX_STOP_LENGTH = 256
_MAX_TARGETS = 50
MAX_TARGET_LENGTH = 256
_MAX_TAGS = 20
_MAX_TAG_LENGTH = 128
_MAX_TTL_SECONDS = 30 * 24 * 3600
MAX_AGENT_LENGTH = 128
MAX_TIMEOUT_MS = 3_600_000
MAX_IDEMPOTENCY_KEY_LENGTH = 255
_MAX_DESCRIPTION_LENGTH = 16 * 1024


def _check_name(name: str, path: Path) -> None:
    if not _NAME.fullmatch(name):
        raise invalid("The name is not 1 to 64 letters, digits, underscores or hyphens.", path)


def _to_schema(value: object, path: Path) -> Mapping[str, Json]:
    if not isinstance(value, dict):
        raise invalid("A JSON Schema is an object.", path)
    return cast("Mapping[str, Json]", value)


@strawberry.input(description="A tool that the model may ask for.")
class ToolInput:
    name: str = field(description="1 to 64 letters, digits, underscores or hyphens, such as `weather_today`.")
    description: str | None = field(description="When and how to use it, for the model.")
    parameters: JSON = field(description='JSON Schema of its arguments, such as `{"type": "object", "properties": {}}`.')
    strict: bool | None = field(
        description="True: the arguments match the schema exactly. Targets that cannot do that for this schema are skipped."
    )
    cache_up_to: bool = field(description=CACHE_MARK, default=False)
    cache_ttl: CacheTtl | None = field(description=CACHE_TTL)

    def to_domain(self, path: Path) -> Tool:
        _check_name(self.name, (*path, "name"))
        if self.description is not None and len(self.description) > _MAX_DESCRIPTION_LENGTH:
            raise invalid(f"The description has over {_MAX_DESCRIPTION_LENGTH} characters.", (*path, "description"))
        return Tool(
            self.name,
            _to_schema(self.parameters, (*path, "parameters")),
            self.description,
            self.strict,
            self.cache_up_to or self.cache_ttl is not None,
            self.cache_ttl,
        )


@strawberry.input(one_of=True, description="Which tools the model may or must ask for.")
class ToolChoiceInput:
    mode: ToolChoiceMode | None = field(description="One rule for all tools.")
    name: str | None = field(description="The one tool that it must ask for.")

    def to_domain(self, tools: tuple[Tool, ...]) -> ToolChoice:
        if self.name is None:
            assert self.mode is not None
            if not tools and self.mode is ToolChoiceMode.REQUIRED:
                raise invalid("There are no tools to choose from.", ("toolChoice", "mode"))
            return self.mode
        if all(tool.name != self.name for tool in tools):
            raise invalid("No tool has this name.", ("toolChoice", "name"))
        return NamedTool(self.name)


@strawberry.input(description="A JSON Schema that the answer must match.")
class JsonSchemaInput:
    name: str = field(description="1 to 64 letters, digits, underscores or hyphens, such as `invoice`.")
    schema: JSON = field(description='JSON Schema, such as `{"type": "object", "properties": {"total": {"type": "number"}}}`.')
    strict: bool | None = field(
        description="True: the provider itself keeps to the schema. Targets that cannot do that for this schema are skipped. "
        "Omit to use it if the schema allows it. Every answer is checked in any case."
    )

    def to_domain(self, path: Path) -> JsonSchemaFormat:
        _check_name(self.name, (*path, "name"))
        return JsonSchemaFormat(self.name, _to_schema(self.schema, (*path, "schema")), self.strict)


@strawberry.input(one_of=True, description="Omit for plain text.")
class ResponseFormatInput:
    json_object: bool | None = field(description="True: any JSON object.")
    json_schema: JsonSchemaInput | None = field(description="JSON that matches this schema.")

    def to_domain(self) -> ResponseFormat:
        if self.json_schema is not None:
            return self.json_schema.to_domain(("responseFormat", "jsonSchema"))
        if not self.json_object:
            raise invalid("For plain text omit responseFormat.", ("responseFormat", "jsonObject"))
        return JsonObjectFormat()


@strawberry.input(description="Narrows the route for one call.")
class RoutingInput:
    strategy: RoutingStrategy | None = field(description="Omit for the route's own.")
    fallback: bool = field(description="False: try only one target.", default=True)
    only: list[str] | None = field(description="Providers or `provider/model` targets; no other is tried.")
    avoid: list[str] | None = field(description="Providers or `provider/model` targets that are not tried.")

    def to_domain(self) -> RoutingPreference:
        return RoutingPreference(
            self.strategy,
            self.fallback,
            check_names(self.only, _MAX_TARGETS, MAX_TARGET_LENGTH, ("routing", "only")),
            check_names(self.avoid, _MAX_TARGETS, MAX_TARGET_LENGTH, ("routing", "avoid")),
        )


@strawberry.input(description="How stored answers to the same request are used.")
class CacheInput:
    mode: CacheMode = field(description="How the cache is used.", default=CacheMode.USE)
    ttl_seconds: int | None = field(description="How long the answer may be reused: 1 second to 30 days.")
    tags: list[str] | None = field(description="Tags by which stored answers can be invalidated.")

    def to_domain(self) -> CachePolicy:
        check_range(self.ttl_seconds, 1, _MAX_TTL_SECONDS, ("cache", "ttlSeconds"))
        ttl = None if self.ttl_seconds is None else timedelta(seconds=self.ttl_seconds)
        return CachePolicy(self.mode, ttl, check_names(self.tags, _MAX_TAGS, _MAX_TAG_LENGTH, ("cache", "tags")))


@strawberry.input(description="One call of a language model.")
class CompletionInput:
    messages: list[MessageInput] = field(description="The conversation so far, oldest first; 1 to 2048 messages.")
    model: str | None = field(
        description="`provider/model`, or the name of a route. Omit for the default route. Such as `anthropic/claude-sonnet-5-5`."
    )
    tools: list[ToolInput] | None = field(description="Tools that the model may ask for.")
    tool_choice: ToolChoiceInput | None = field(description="Omit to let the model decide.")
    response_format: ResponseFormatInput | None = field(description="Omit for plain text.")
    max_output_tokens: int | None = field(
        description="Maximum output tokens. Omit for the route's default. Lowered to what the model can write and to "
        "what a budget can pay for, but not below minOutputTokens."
    )
    min_output_tokens: int | None = field(
        description="If a budget cannot pay for this many output tokens, the call is refused (BudgetExceeded). Omit "
        "for a quarter of maxOutputTokens."
    )
    reasoning_effort: ReasoningEffort | None = field(description="How long the model may think. Omit for the model's default.")
    temperature: float | None = field(description="0 to 2: how freely the model chooses its words.")
    top_p: float | None = field(description="0 to 1: the share of likely words it chooses from.")
    stop: list[str] | None = field(description="Up to 4 texts at which the answer ends.")
    seed: int | None = field(description="Asks for the same answer again, if the model supports it.")
    parallel_tool_calls: bool | None = field(
        description="False: the model asks for at most one tool at a time. Omit for the provider's default."
    )
    service_tier: AskedTier | None = field(
        description="How fast the provider serves the call, at which price. Budgets hold the price of the tier. Omit for the "
        "provider's default."
    )
    provider_options: JSON | None = field(
        description="Further fields of the request to the provider, by the provider's kind, such as "
        '`{"openai": {"verbosity": "low"}}`. A note in the answer names them. Fields that GreenLang sets itself, or that could '
        "cost more than budgets hold, are refused (InvalidInput)."
    )
    routing: RoutingInput | None = field(description="Narrows the route for this call.")
    cache: CacheInput | None = field(description="Omit for no caching.")
    agent: str | None = field(description="Who pays, within the caller's tenant, such as `research-7`.")
    labels: list[LabelInput] | None = field(description="Up to 16 labels by which costs can be grouped, each key once.")
    timeout_ms: int | None = field(description="Deadline of the whole call, retries and failover included. Up to one hour.")
    idempotency_key: str | None = field(
        description="The same key and input give the same completion, charged once. The same key with other input is "
        "a Conflict. At most 255 characters."
    )
    restart: bool = field(
        description="True: if a stream breaks after a part of its answer was shown, the answer begins anew, at the next target "
        "or at the same one. `CompletionRestarted` then says that everything shown before is void. Every attempt is charged. "
        "`completionCreate` shows nothing before the end, so it does this anyway.",
        default=False,
    )
    stream_reasoning: bool = field(
        description="True: the stream of this call also brings `ReasoningDelta` events, if the model shows its reasoning.",
        default=False,
    )
    on_client_leave: OnClientLeave | None = field(
        description="What happens to the call if its `completionStream` ends before the call does. Omit for CONTINUE. Other "
        "operations ignore it."
    )

    async def read(self) -> CompletionRequest:
        """Does what `to_domain` does. A large conversation is read in a thread, so that the event loop stays free."""
        pieces = sum(message.pieces for message in self.messages)
        return await asyncio.to_thread(self.to_domain) if pieces > _FEW_PIECES else self.to_domain()

    def to_domain(self) -> CompletionRequest:
        """Raises Refused(InvalidInput) with the path of the first fault."""
        check_count(self.messages, _MAX_MESSAGES, ("messages",))
        check_texts(self)
        self._check_figures()
        tools = self._tools()
        return CompletionRequest(
            messages=self._messages(),
            model=self.model,
            tools=tools,
            tool_choice=None if self.tool_choice is None else self.tool_choice.to_domain(tools),
            response_format=None if self.response_format is None else self.response_format.to_domain(),
            max_output_tokens=self.max_output_tokens,
            min_output_tokens=self.min_output_tokens,
            reasoning_effort=self.reasoning_effort,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=check_names(self.stop, _MAX_STOPS, _MAX_STOP_LENGTH, ("stop",)),
            seed=self.seed,
            parallel_tool_calls=self.parallel_tool_calls,
            service_tier=self.service_tier,
            provider_options=to_provider_options(self.provider_options),
            routing=RoutingPreference() if self.routing is None else self.routing.to_domain(),
            cache=None if self.cache is None else self.cache.to_domain(),
            agent=self.agent,
            labels=to_labels(self.labels, ("labels",)),
            timeout=None if self.timeout_ms is None else timedelta(milliseconds=self.timeout_ms),
            idempotency_key=self.idempotency_key,
            restart=self.restart,
            stream_reasoning=self.stream_reasoning,
            on_client_leave=self.on_client_leave or OnClientLeave.CONTINUE,
        )

    def _messages(self) -> tuple[Message, ...]:
        if not self.messages:
            raise invalid("There are no messages.", ("messages",))
        messages = tuple(message.to_domain(("messages", str(index))) for index, message in enumerate(self.messages))
        if not any(message.role in _ASKING for message in messages):
            raise invalid("There is no USER or TOOL message to answer.", ("messages",))
        return messages

    def _tools(self) -> tuple[Tool, ...]:
        if not self.tools:
            return ()
        check_count(self.tools, _MAX_TOOLS, ("tools",))
        check_distinct((tool.name for tool in self.tools), ("tools",))
        return tuple(tool.to_domain(("tools", str(index))) for index, tool in enumerate(self.tools))

    def _check_figures(self) -> None:
        check_length(self.model, MAX_TARGET_LENGTH, ("model",))
        check_length(self.agent, MAX_AGENT_LENGTH, ("agent",))
        check_length(self.idempotency_key, MAX_IDEMPOTENCY_KEY_LENGTH, ("idempotencyKey",))
        check_range(self.max_output_tokens, 1, MAX_TOKENS, ("maxOutputTokens",))
        check_range(self.min_output_tokens, 1, self.max_output_tokens or MAX_TOKENS, ("minOutputTokens",))
        check_range(self.temperature, 0, 2, ("temperature",))
        check_range(self.top_p, 0, 1, ("topP",))
        check_range(self.timeout_ms, 1, MAX_TIMEOUT_MS, ("timeoutMs",))
