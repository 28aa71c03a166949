"""The conversation of a completion. A message says one thing in one way: text, parts or a tool's result."""

from __future__ import annotations

import binascii
from typing import cast
from urllib.parse import urlsplit

import msgspec
import strawberry
from strawberry import ID, field
from strawberry.scalars import JSON

from app.llm.messages import ImageUrl, InlineImage, Json, Message, Part, Role, Text, ToolCall, ToolResult
from resolvers.inputs.checks import Path, check_length, invalid

_MEDIA_TYPES = ("image/gif", "image/jpeg", "image/png", "image/webp")
_PIECE = 1024 * 1024
_MANY = 1000
_SHORT = 256
_MAX_ARGUMENTS_LENGTH = 2 * 1024 * 1024
_MAX_URL_LENGTH = 8192
_MAX_ID_LENGTH = 256
_MAX_NAME_LENGTH = 128


@strawberry.input(description="An image inside the request.")
class InlineImageInput:
    data: str = field(description="The image's bytes as base64.")
    media_type: str = field(description="`image/gif`, `image/jpeg`, `image/png` or `image/webp`.")

    def to_domain(self, path: Path) -> InlineImage:
        if self.media_type not in _MEDIA_TYPES:
            raise invalid(f"The media type is none of {', '.join(_MEDIA_TYPES)}.", (*path, "mediaType"))
        if not self.data:
            raise invalid("The image is empty.", (*path, "data"))
        if not _is_base64(self.data):
            raise invalid("The data is not base64.", (*path, "data"))
        return InlineImage(self.data, self.media_type)


def _is_base64(data: str) -> bool:
    """Tried piece by piece, so that other threads have their turn; only the last piece may be padded."""
    try:
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            found = binascii.a2b_base64(piece, strict_mode=True)
            if len(found) != _PIECE // 4 * 3 and start + _PIECE < len(data):
                return False
    except ValueError:
        return False
    return True


@strawberry.input(one_of=True, description="An image, by its address or inline.")
class ImageInput:
    url: str | None = field(description="An http or https address. It is passed on to the provider and never fetched here.")
    base64: InlineImageInput | None = field(description="The image itself.")

    def to_domain(self, path: Path) -> Part:
        if self.base64 is not None:
            return self.base64.to_domain((*path, "base64"))
        assert self.url is not None
        check_length(self.url, _MAX_URL_LENGTH, (*path, "url"))
        if not _is_web_address(self.url):
            raise invalid("The address is not an http or https URL.", (*path, "url"))
        return ImageUrl(self.url)


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


@strawberry.input(one_of=True, description="A part of a message.")
class PartInput:
    text: str | None = field(description="Text.")
    image: ImageInput | None = field(description="An image. Only in USER messages.")

    def to_domain(self, role: Role, path: Path) -> Part:
        if self.image is not None:
            if role is not Role.USER:
                raise invalid("Images belong to USER messages.", (*path, "image"))
            return self.image.to_domain((*path, "image"))
        if not self.text:
            raise invalid("The text is empty.", (*path, "text"))
        return Text(self.text)


@strawberry.input(description="A tool call that the model asked for, passed back unchanged.")
class ToolCallInput:
    id: ID = field(description="As the model gave it, such as `toolu_01A`.")
    name: str = field(description="Name of the tool.")
    arguments: str = field(
        description='JSON text, as the model wrote it, such as `{"city": "Oslo"}`; at most 2,097,152 characters.'
    )

    def to_domain(self, path: Path) -> ToolCall:
        check_length(self.id, _MAX_ID_LENGTH, (*path, "id"))
        check_length(self.name, _MAX_NAME_LENGTH, (*path, "name"))
        arguments = self.arguments or "{}"
        check_length(arguments, _MAX_ARGUMENTS_LENGTH, (*path, "arguments"))
        try:
            msgspec.json.decode(arguments, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, RecursionError):
            raise invalid("The arguments are not the JSON text of an object.", (*path, "arguments")) from None
        return ToolCall(self.id, self.name, arguments)


@strawberry.input(description="The answer of a tool.")
class ToolResultInput:
    id: ID = field(description="Id of the tool call that this answers.")
    content: str = field(description="The answer, as text.")
    is_error: bool = field(description="True if the tool failed.", default=False)

    def to_domain(self, path: Path) -> ToolResult:
        check_length(self.id, _MAX_ID_LENGTH, (*path, "id"))
        return ToolResult(self.id, self.content, self.is_error)


@strawberry.input(
    description="Exactly one of text, parts or toolResult; an ASSISTANT message with toolCalls may have none. `reasoning` gives "
    "back, unchanged, the opaque blocks that the model wrote before its tool calls."
)
class MessageInput:
    role: Role = field(description="Who speaks.")
    text: str | None = field(description="The message as text.")
    parts: list[PartInput] | None = field(description="The message as text and images.")
    tool_calls: list[ToolCallInput] | None = field(description="What an ASSISTANT message asked tools to do.")
    tool_result: ToolResultInput | None = field(description="What the tool of a TOOL message answered.")
    reasoning: JSON | None = field(description="The `reasoning` of the completion that made this ASSISTANT message.")
    cache_up_to: bool = field(description="Marks the end of a prefix that the provider should cache.", default=False)

    @property
    def pieces(self) -> int:
        """How much there is to read; an image or a long text that is JSON counts as many."""
        parts, calls = self.parts or (), self.tool_calls or ()
        images = sum(part.image is not None for part in parts)
        return 1 + len(parts) + len(calls) + _MANY * images + sum(len(call.arguments) for call in calls) // _SHORT

    def to_domain(self, path: Path) -> Message:
        self._check_shape(path)
        if self.role is not Role.ASSISTANT and self.reasoning is not None:
            raise invalid("Reasoning belongs to ASSISTANT messages.", (*path, "reasoning"))
        return Message(
            self.role,
            self._parts(path),
            tuple(call.to_domain((*path, "toolCalls", str(position))) for position, call in enumerate(self.tool_calls or ())),
            self.tool_result.to_domain((*path, "toolResult")) if self.tool_result is not None else None,
            cast("Json", self.reasoning),
            self.cache_up_to,
        )

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
            if not self.parts:
                raise invalid("There are no parts.", (*path, "parts"))
            return tuple(part.to_domain(self.role, (*path, "parts", str(index))) for index, part in enumerate(self.parts))
        if self.text is None or (not self.text and self.tool_calls):
            return ()
        if not self.text:
            raise invalid("The text is empty.", (*path, "text"))
        return (Text(self.text),)
