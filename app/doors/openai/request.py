"""Reads a request for a chat completion.

Fields that the domain does not know go on to targets of this API's own kind. For all others they are refused, unless their value
is the API's default or clients always send them. What is left out is noted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar, cast

from app.domain.errors import Refused
from app.domain.problems import InvalidInput
from app.doors.headers import Asked
from app.gateway.completions import OnClientLeave
from app.llm.messages import AskedTier, Json, ReasoningEffort, Role, ToolChoiceMode
from app.settings import ProviderKindName
from resolvers.inputs.completions import CompletionInput, JsonSchemaInput, ResponseFormatInput, ToolChoiceInput, ToolInput
from resolvers.inputs.messages import MessageInput, ToolCallInput, ToolResultInput
from resolvers.inputs.parts import DocumentPartInput, ImageInput, InlineDocumentInput, InlineImageInput, PartInput

OWN_KINDS: Final = frozenset({ProviderKindName.OPENAI.value, ProviderKindName.OPENAI_COMPATIBLE.value})
TRANSLATED: Final = frozenset(
    {
        "messages", "model", "tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "stop", "seed",
        "max_tokens", "max_completion_tokens", "temperature", "top_p", "stream", "stream_options", "service_tier",
    }
)  # fmt: skip
DEFAULTS: Final[Mapping[str, tuple[object, ...]]] = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "store": (False,),
    "modalities": (["text"],),
}
"""Values that change nothing, so they are left out for every target."""
ALWAYS_SENT: Final = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})
"""Clients send these with every request. A target of another kind does not get them, which is noted."""
_ROLES: Final = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
}
_TIERS: Final = {"auto": None, "default": AskedTier.STANDARD, "flex": AskedTier.FLEX, "priority": AskedTier.PRIORITY}

Body = Mapping[str, object]
Input = TypeVar("Input")


@dataclasses.dataclass(frozen=True, slots=True)
class ChatRequest:
    """`notes` says what was left out. `model` is what the client wrote."""

    input: CompletionInput
    model: str
    streamed: bool
    include_usage: bool
    notes: tuple[str, ...]


def read_chat(body: Body, asked: Asked, resolve: Callable[[str], str], kinds: Callable[[str], set[str]]) -> ChatRequest:
    """Raises Refused(InvalidInput) with the path of the first fault."""
    written = text(body, "model")
    model = resolve(written)
    options, notes = _further(body, partial(kinds, model))
    stream_options = fields(body.get("stream_options") or {}, ("stream_options",))
    found = filled(
        CompletionInput,
        messages=[_message(each, ("messages", str(place))) for place, each in enumerate(items(body, "messages"))],
        model=model,
        tools=[_tool(each, ("tools", str(place))) for place, each in enumerate(items(body, "tools"))] or None,
        tool_choice=_tool_choice(body.get("tool_choice")),
        response_format=_response_format(body.get("response_format")),
        max_output_tokens=_max_tokens(body),
        reasoning_effort=_member(body, "reasoning_effort", {each.value.lower(): each for each in ReasoningEffort}),
        temperature=number(body, "temperature"),
        top_p=number(body, "top_p"),
        stop=_stop(body.get("stop")),
        seed=whole(body, "seed"),
        parallel_tool_calls=flag(body, "parallel_tool_calls"),
        service_tier=_member(body, "service_tier", _TIERS),
        provider_options=options,
        cache=asked.cache,
        agent=asked.agent,
        labels=asked.labels or None,
        timeout_ms=asked.timeout_ms,
        idempotency_key=asked.idempotency_key,
        on_client_leave=OnClientLeave.CANCEL,
    )
    streamed = flag(body, "stream") or False
    return ChatRequest(found, written, streamed, flag(stream_options, "include_usage") or False, notes)


def _further(body: Body, find_kinds: Callable[[], set[str]]) -> tuple[dict[str, dict[str, Json]] | None, tuple[str, ...]]:
    """The options for targets of this API's own kind, and notes of what is left out."""
    further = {
        name: value
        for name, value in body.items()
        if name not in TRANSLATED and value is not None and value not in DEFAULTS.get(name, ())
    }
    if not further:
        return None, ()
    kinds, own, notes = find_kinds(), dict[str, Json](), list[str]()
    for name, value in further.items():
        if kinds <= OWN_KINDS:
            own[name] = cast("Json", value)
        elif name in ALWAYS_SENT:
            notes.append(f"{name} was left out: the model's provider has no such field")
        else:
            raise wrong("The provider of this model has no such field.", name)
    return (dict.fromkeys(kinds, own) if own else None), tuple(notes)


def _stop(value: object) -> list[str] | None:
    if value is None or isinstance(value, str):
        return None if value is None else [value]
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise wrong("It should be a text or a list of texts.", "stop")
    return value


def _max_tokens(body: Body) -> int | None:
    newer, older = whole(body, "max_completion_tokens"), whole(body, "max_tokens")
    if newer is not None and older is not None and newer != older:
        raise wrong("It differs from max_completion_tokens. Send one of them.", "max_tokens")
    return newer if newer is not None else older


def _message(value: object, path: tuple[str, ...]) -> MessageInput:
    message = fields(value, path)
    role = _ROLES.get(str(message.get("role")))
    if role is None:
        raise wrong(f"The role is none of {', '.join(_ROLES)}.", *path)
    content = message.get("content")
    if role is Role.TOOL:
        answer = content if isinstance(content, str) else None
        parts = None if isinstance(content, str) else _parts(content, path)
        result = filled(ToolResultInput, id=text(message, "tool_call_id", path), content=answer, parts=parts)
        return filled(MessageInput, role=role, tool_result=result)
    calls = [_tool_call(each, path) for each in items(message, "tool_calls", path)] or None
    refusal = message.get("refusal")
    if isinstance(refusal, str) and not content:
        content = refusal
    if isinstance(content, str):
        return filled(MessageInput, role=role, text=content or None if calls else content, tool_calls=calls)
    parts = None if content is None else _parts(content, path)
    return filled(MessageInput, role=role, parts=parts, tool_calls=calls)


def _parts(content: object, path: tuple[str, ...]) -> list[PartInput]:
    if not isinstance(content, list):
        raise wrong("The content is neither a text nor a list of parts.", *path)
    return [_part(fields(each, path), path) for each in content]


def _part(part: Body, path: tuple[str, ...]) -> PartInput:
    match part.get("type"):
        case "text" | "refusal":
            return filled(PartInput, text=text(part, str(part["type"]), path))
        case "image_url":
            return filled(PartInput, image=_image(text(fields(part.get("image_url"), path), "url", path), path))
        case "file":
            return filled(PartInput, document=_document(fields(part.get("file"), path), path))
        case other:
            raise wrong(f"Parts of the type {str(other)[:50]!r} are not taken: text, image_url and file are.", *path)


def _image(url: str, path: tuple[str, ...]) -> ImageInput:
    if not url.startswith("data:"):
        return filled(ImageInput, url=url)
    media_type, data = _data_url(url, path)
    return filled(ImageInput, base64=InlineImageInput(data=data, media_type=media_type))


def _document(file: Body, path: tuple[str, ...]) -> DocumentPartInput:
    if file.get("file_id") is not None:
        raise wrong("Files are not kept here. Send the file's content in file_data.", *path)
    media_type, data = _data_url(text(file, "file_data", path), path)
    name = None if file.get("filename") is None else text(file, "filename", path)
    return filled(DocumentPartInput, base64=InlineDocumentInput(data=data, media_type=media_type), name=name)


def _data_url(url: str, path: tuple[str, ...]) -> tuple[str, str]:
    head, comma, data = url.partition(",")
    media_type = head.removeprefix("data:").removesuffix(";base64")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise wrong("It is not a data URL in base64: data:TYPE;base64,DATA.", *path)
    return media_type, data


def _tool_call(value: object, path: tuple[str, ...]) -> ToolCallInput:
    call = fields(value, path)
    if call.get("type", "function") != "function":
        raise wrong("Only tool calls of the type function are taken.", *path)
    function = fields(call.get("function"), path)
    arguments = text(function, "arguments", path)
    return filled(ToolCallInput, id=text(call, "id", path), name=text(function, "name", path), arguments=arguments)


def _tool(value: object, path: tuple[str, ...]) -> ToolInput:
    tool = fields(value, path)
    if tool.get("type") != "function":
        raise wrong("Only tools of the type function are taken.", *path)
    function = fields(tool.get("function"), path)
    description = None if function.get("description") is None else text(function, "description", path)
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    name, strict = text(function, "name", path), flag(function, "strict")
    return filled(ToolInput, name=name, description=description, parameters=parameters, strict=strict)


def _tool_choice(value: object) -> ToolChoiceInput | None:
    if value is None:
        return None
    modes = {mode.value.lower(): mode for mode in ToolChoiceMode}
    if isinstance(value, str) and value in modes:
        return filled(ToolChoiceInput, mode=modes[value])
    choice = fields(value, ("tool_choice",))
    if choice.get("type") != "function":
        raise wrong("It should be auto, none, required or a function.", "tool_choice")
    return filled(ToolChoiceInput, name=text(fields(choice.get("function"), ("tool_choice",)), "name", ("tool_choice",)))


def _response_format(value: object) -> ResponseFormatInput | None:
    if value is None:
        return None
    asked = fields(value, ("response_format",))
    match asked.get("type"):
        case "text":
            return None
        case "json_object":
            return filled(ResponseFormatInput, json_object=True)
        case "json_schema":
            schema = fields(asked.get("json_schema"), ("response_format",))
            name, strict = text(schema, "name", ("response_format",)), flag(schema, "strict")
            found = filled(JsonSchemaInput, name=name, schema=schema.get("schema") or {}, strict=strict)
            return filled(ResponseFormatInput, json_schema=found)
        case _:
            raise wrong("The type should be text, json_object or json_schema.", "response_format")


def filled(kind: Callable[..., Input], **given: object) -> Input:
    """An input in which what is not given is left out."""
    required = (
        each for each in dataclasses.fields(cast(Any, kind)) if each.default is each.default_factory is dataclasses.MISSING
    )
    return kind(**{each.name: None for each in required} | given)


def wrong(message: str, *path: str) -> Refused:
    return Refused(InvalidInput(message, path))


def fields(value: object, path: tuple[str, ...]) -> Body:
    if not isinstance(value, dict):
        raise wrong("It should be an object.", *path)
    return value


def items(body: Body, name: str, path: tuple[str, ...] = ()) -> list[object]:
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong("It should be a list.", *(path or (name,)))
    return value


def text(body: Body, name: str, path: tuple[str, ...] = ()) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise wrong(f"{name} should be a text.", *(path or (name,)))
    return value


def number(body: Body, name: str) -> float | None:
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise wrong("It should be a number.", name)
    return value


def whole(body: Body, name: str) -> int | None:
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not -(2**31) <= value < 2**31):
        raise wrong("It should be a whole number of 32 bits.", name)
    return value


def flag(body: Body, name: str) -> bool | None:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise wrong("It should be true or false.", name)
    return value


def _member(body: Body, name: str, members: Mapping[str, Input]) -> Input | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or value not in members:
        raise wrong(f"It is none of {', '.join(members)}.", name)
    return members[value]
