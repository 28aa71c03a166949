"""The conversation of a completion. A message has exactly one content: text, parts or a tool's result."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import strawberry
from strawberry import ID, field
from strawberry.scalars import JSON

from app.llm.messages import CacheTtl, Json, Message, Part, ProviderState, Role, Text, ToolCall, ToolResult
from app.llm.provider_state import ReadReasoning, from_json, without_state
from resolvers.inputs.checks import UNBOUNDED, Path, check_length, invalid
from resolvers.inputs.parts import PartInput, to_parts

_MANY = 1000
_SHORT = 256
_MAX_ARGUMENTS_LENGTH = 2 * 1024 * 1024
_MAX_ID_LENGTH = 64 * 1024
"""Some gateways put data that a provider needs back into the id of a call."""
_MAX_NAME_LENGTH = 1024
CACHE_MARK = "Marks the end of a prefix that the provider should cache."
CACHE_TTL = "How long the provider should cache the prefix that ends here. It is a mark too. Omit for the provider's default."


@strawberry.input(description="A tool call that the model asked for, passed back unchanged.")
class ToolCallInput:
    id: ID = field(description="As the model gave it, such as `toolu_01A`.")
    name: str = field(description="Name of the tool.")
    arguments: str = field(
        description='JSON text, as the model wrote it, such as `{"city": "Oslo"}`; at most 2,097,152 characters. Text that is '
        "not JSON is given back as it came too."
    )
    provider_state: JSON | None = field(
        description="The `providerState` of the tool call. Only the provider that made it gets it back.", metadata=UNBOUNDED
    )

    def to_domain(self, path: Path) -> ToolCall:
        check_length(self.id, _MAX_ID_LENGTH, (*path, "id"))
        check_length(self.name, _MAX_NAME_LENGTH, (*path, "name"))
        arguments = self.arguments or "{}"
        check_length(arguments, _MAX_ARGUMENTS_LENGTH, (*path, "arguments"))
        return ToolCall(self.id, self.name, arguments, _to_state(self.provider_state, path))


def _to_state(value: object, path: Path) -> ProviderState | None:
    try:
        return None if value is None else from_json(value)
    except ValueError:
        raise invalid("The provider state was changed. Pass it back as it came.", (*path, "providerState")) from None


@strawberry.input(description="The answer of a tool.")
class ToolResultInput:
    id: ID = field(description="Id of the tool call that this answers.")
    content: str | None = field(description="The answer, as text. May be omitted if there are parts.")
    parts: list[PartInput] | None = field(description="The answer as text, images and documents. They come after the content.")
    is_error: bool = field(description="True if the tool failed.", default=False)

    def to_domain(self, path: Path) -> ToolResult:
        check_length(self.id, _MAX_ID_LENGTH, (*path, "id"))
        if self.content is None and self.parts is None:
            raise invalid("One of content and parts is needed.", (*path, "content"))
        parts = () if self.parts is None else to_parts(self.parts, (*path, "parts"))
        return ToolResult(self.id, self.content or "", self.is_error, parts)


@strawberry.input(
    description="Exactly one of text, parts or toolResult; an ASSISTANT message with toolCalls may have none. `reasoning` gives "
    "back, unchanged, the opaque blocks that the model wrote before its tool calls."
)
class MessageInput:
    role: Role = field(description="Who speaks.")
    text: str | None = field(description="The message as text.")
    parts: list[PartInput] | None = field(description="The message as text, images and documents.")
    tool_calls: list[ToolCallInput] | None = field(description="What an ASSISTANT message asked tools to do.")
    tool_result: ToolResultInput | None = field(description="What the tool of a TOOL message answered.")
    reasoning: JSON | None = field(
        description="The `reasoning` of the completion that made this ASSISTANT message.", metadata=UNBOUNDED
    )
    provider_state: JSON | None = field(
        description="The `providerState` of the completion that made this ASSISTANT message. Only the provider that made it gets "
        "it back.",
        metadata=UNBOUNDED,
    )
    cache_up_to: bool = field(description=CACHE_MARK, default=False)
    cache_ttl: CacheTtl | None = field(description=CACHE_TTL)

    @property
    def pieces(self) -> int:
        """The size of the message for reading. An image, a document or a long JSON text counts as many characters."""
        parts, calls = list(self.parts or ()), self.tool_calls or ()
        if self.tool_result is not None:
            parts += self.tool_result.parts or ()
        media = sum(part.is_large for part in parts)
        return 1 + len(parts) + len(calls) + _MANY * media + sum(len(call.arguments) for call in calls) // _SHORT

    def to_domain(self, path: Path) -> Message:
        self._check_shape(path)
        for name, value in (("reasoning", self.reasoning), ("providerState", self.provider_state)):
            if self.role is not Role.ASSISTANT and value is not None:
                raise invalid(f"{name} belongs to ASSISTANT messages.", (*path, name))
        read = self._reasoning(path)
        calls = (call.to_domain((*path, "toolCalls", str(position))) for position, call in enumerate(self.tool_calls or ()))
        return Message(
            self.role,
            self._parts(path),
            tuple(call if call.provider_state else replace(call, provider_state=read.tool_calls.get(call.id)) for call in calls),
            self.tool_result.to_domain((*path, "toolResult")) if self.tool_result is not None else None,
            read.reasoning,
            self.cache_up_to or self.cache_ttl is not None,
            self.cache_ttl,
            _to_state(self.provider_state, path) or read.message,
        )

    def _reasoning(self, path: Path) -> ReadReasoning:
        try:
            return without_state(cast("Json", self.reasoning))
        except ValueError:
            raise invalid("The reasoning was changed. Pass it back as it came.", (*path, "reasoning")) from None

    def _check_shape(self, path: Path) -> None:
        given = [name for name in ("text", "parts", "tool_result") if getattr(self, name) is not None]
        if len(given) > 1:
            raise invalid("Only one of text, parts and toolResult can be given.", path)
        if not given and not (self.role is Role.ASSISTANT and self.tool_calls):
            raise invalid("One of text, parts or toolResult is needed.", path)
        if (self.role is Role.TOOL) != (self.tool_result is not None):
            raise invalid("A TOOL message needs a toolResult; other messages cannot have one.", (*path, "toolResult"))
        if self.tool_calls and self.role is not Role.ASSISTANT:
            raise invalid("Tool calls belong to ASSISTANT messages.", (*path, "toolCalls"))

    def _parts(self, path: Path) -> tuple[Part, ...]:
        if self.parts is not None:
            return to_parts(self.parts, (*path, "parts"), only_text=self.role is not Role.USER)
        if self.text is None or (not self.text and self.tool_calls):
            return ()
        if not self.text:
            raise invalid("The text is empty.", (*path, "text"))
        return (Text(self.text),)
