"""A ModelCall as the body of POST /v1/chat/completions, for OpenAI and for servers that speak its protocol."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from itertools import groupby
from typing import Any, TypeAlias

import msgspec

from app.llm.messages import (
    AskedTier,
    CacheTtl,
    EmbedCall,
    ImageUrl,
    InlineImage,
    InlinePdf,
    JsonSchemaFormat,
    Message,
    ModelCall,
    NamedTool,
    Part,
    PdfUrl,
    Role,
    Text,
    TextDocument,
    Tool,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
)
from app.llm.providers.efforts import settle_effort
from app.llm.providers.forced_tool import is_forced, leave_the_choice
from app.llm.providers.opaque_fields import fields_of, read_field
from app.llm.providers.options import add_options
from app.llm.providers.unsupported import OTHER_REASONING, Notes, not_taken, refuse
from app.llm.refused_parameters import Parameters
from app.settings import ProviderKindName

REASONING_FORMAT = "openai-compatible"
REASONING_FIELDS = ("reasoning_content", "reasoning")
"""The fields in which compatible servers put what a model thought. OpenAI itself does not return it."""

PARAMETERS = {
    "temperature": "temperature",
    "top_p": "topP",
    "seed": "seed",
    "stop": "stop",
    "reasoning_effort": "reasoningEffort",
    "parallel_tool_calls": "parallelToolCalls",
    "service_tier": "serviceTier",
}
"""Parameters that may be left out for a model, each with its name in the input."""
_CAPS = ("max_completion_tokens", "max_tokens")
REFUSABLE = Parameters(
    own=frozenset({"stream_options", "encoding_format", "prompt_cache_breakpoint", "parallel_tool_calls", "service_tier"}),
    asked=frozenset({"temperature", "top_p", "seed", "stop", "reasoning_effort", "strict", "tool_choice", *_CAPS}),
)
"""If a server refuses one name of the output cap, the other one is sent."""

MESSAGE_FIELDS = frozenset(
    {"annotations", "audio", "content", "function_call", "refusal", "role", "tool_calls", "usage", *REASONING_FIELDS}
)
CALL_FIELDS = frozenset({"function", "id", "index", "type"})
FUNCTION_FIELDS = frozenset({"arguments", "name"})
"""What is read of a message, a tool call and its function, or only shows something. Other fields are the provider's state."""

_ROLES = {Role.SYSTEM: "system", Role.USER: "user"}
_CHOICES = {ToolChoiceMode.AUTO: "auto", ToolChoiceMode.NONE: "none", ToolChoiceMode.REQUIRED: "required"}
_TIERS = {AskedTier.STANDARD: "default", AskedTier.FLEX: "flex", AskedTier.PRIORITY: "priority", AskedTier.FAST: "fast"}
_CACHE_MARKS = re.compile(r"^gpt-(5\.([6-9]|\d\d)|[6-9]|\d\d)")
"""Models that take explicit cache marks. Earlier ones cache by themselves."""
_SAYS_JSON = "Answer in JSON."
_FILE_NAME = "document.pdf"
_NOT_STRICT = "The provider takes it as strict only if every object lists all its properties as required and is closed."
_NO_ADDRESS = "The provider takes no address of a PDF, only the PDF itself."

Block: TypeAlias = "dict[str, Any]"


def encode_request(call: ModelCall, notes: Notes, untaken: Set[str], *, official: bool, stream: bool) -> bytes:
    """`untaken` are parameters that this model has refused before. `official` is False for compatible servers, which know fewer
    fields. Raises Refused(InvalidInput) if the protocol cannot express the call."""
    _check_documents(call.messages)
    marks = official and _CACHE_MARKS.match(call.model) is not None and "prompt_cache_breakpoint" not in untaken
    body: dict[str, Any] = {
        "model": call.model,
        "messages": list(_messages(call.messages, notes, marks=marks, official=official)),
        _cap(untaken, official=official): call.max_output_tokens,
    }
    for name, value in _parameters(call, untaken).items():
        if value is None or name in untaken:
            notes.drop(PARAMETERS[name])
        else:
            body[name] = value
    if call.reasoning_effort is not None and "reasoning_effort" in body:
        notes.settle("reasoningEffort", call.reasoning_effort.value, body["reasoning_effort"].upper())
    _tools(call, body, notes, untaken, official=official)
    _format(call, body, notes, untaken, official=official)
    _note_caching(call, notes)
    add_options(body, call, ProviderKindName.OPENAI if official else ProviderKindName.OPENAI_COMPATIBLE, notes)
    if stream:
        body["stream"] = True
        if "stream_options" not in untaken:
            body["stream_options"] = {"include_usage": True}
    return _encode(body)


def _cap(untaken: Set[str], *, official: bool) -> str:
    """Every request has a cap, even if the server has refused both names."""
    usual, other = _CAPS if official else reversed(_CAPS)
    return other if usual in untaken and other not in untaken else usual


def encode_embedding(call: EmbedCall, untaken: Set[str]) -> bytes:
    body: dict[str, Any] = {"model": call.model, "input": call.texts}
    if "encoding_format" not in untaken:
        body["encoding_format"] = "base64"
    if call.dimensions is not None:
        body["dimensions"] = call.dimensions
    return _encode(body)


def _encode(body: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        raise refuse("The text contains half of a surrogate pair.", ("messages",)) from None


def _parameters(call: ModelCall, untaken: Set[str]) -> dict[str, Any]:
    """Returns the parameters that the call has. One whose value the model does not take is None."""
    found: dict[str, Any] = {
        "temperature": call.temperature,
        "top_p": call.top_p,
        "seed": call.seed,
        "stop": call.stop or None,
        "parallel_tool_calls": call.parallel_tool_calls if call.tools else None,
        "service_tier": None if call.service_tier is None else _TIERS[call.service_tier],
    }
    found = {name: value for name, value in found.items() if value is not None}
    if call.reasoning_effort is not None:
        effort = settle_effort(call.reasoning_effort, untaken)
        found["reasoning_effort"] = None if effort is None else effort.value.lower()
    return found


def _tools(call: ModelCall, body: Block, notes: Notes, untaken: Set[str], *, official: bool) -> None:
    if not call.tools:
        return
    body["tools"] = [
        {"type": "function", "function": _function(tool, place, notes, untaken, official=official)}
        for place, tool in enumerate(call.tools)
    ]
    if call.tool_choice is not None and "tool_choice" not in untaken:
        body["tool_choice"] = _choice(call.tool_choice)
    elif is_forced(call):
        leave_the_choice(notes)
    elif call.tool_choice is ToolChoiceMode.NONE:
        notes.drop("toolChoice")


def _function(tool: Tool, place: int, notes: Notes, untaken: Set[str], *, official: bool) -> Block:
    function: Block = {"name": tool.name, "parameters": tool.parameters}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None and "strict" in untaken:
        notes.drop("strict")
    elif tool.strict is not None:
        if tool.strict and official and not _is_strict(tool.parameters):
            raise not_taken(_NOT_STRICT, ("tools", str(place), "strict"))
        function["strict"] = tool.strict
    return function


def _note_caching(call: ModelCall, notes: Notes) -> None:
    """The provider caches by itself for some minutes. It caches tools together with what follows them."""
    if any(tool.cache_up_to for tool in call.tools):
        notes.add("The cache marks of tools were left out: the provider caches tools without them.")
    if CacheTtl.ONE_HOUR in {*(tool.cache_ttl for tool in call.tools), *(message.cache_ttl for message in call.messages)}:
        notes.drop("cacheTtl")


def _choice(choice: ToolChoice) -> str | Block:
    if isinstance(choice, NamedTool):
        return {"type": "function", "function": {"name": choice.name}}
    return _CHOICES[choice]


def _messages(messages: tuple[Message, ...], notes: Notes, *, marks: bool, official: bool) -> Iterator[Block]:
    for is_result, group in groupby(messages, lambda message: message.role is Role.TOOL):
        if is_result:
            yield from _tool_results(list(group), notes)
            continue
        for message in group:
            if message.role is Role.ASSISTANT:
                yield _assistant(message, notes, official=official)
            else:
                content = _content(message, notes, mark=marks and message.cache_up_to)
                yield {"role": _ROLES[message.role], "content": content}


def _content(message: Message, notes: Notes, *, mark: bool) -> str | list[Block]:
    if not mark and len(message.parts) == 1 and isinstance(message.parts[0], Text):
        return message.parts[0].text
    blocks = [_part(part, notes) for part in message.parts]
    if mark and blocks:
        blocks[-1]["prompt_cache_breakpoint"] = {"mode": "explicit"}
    return blocks


def _part(part: Part, notes: Notes) -> Block:
    match part:
        case Text(text=text):
            return {"type": "text", "text": text}
        case ImageUrl(url=url):
            return {"type": "image_url", "image_url": {"url": url}}
        case InlineImage(data=data, media_type=media_type):
            return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}
        case InlinePdf(data=data, name=name):
            file = {"filename": name or _FILE_NAME, "file_data": f"data:application/pdf;base64,{data}"}
            return {"type": "file", "file": file}
        case TextDocument(text=text, name=name):
            notes.add("A text document was sent as text: the provider takes only PDFs as documents.")
            return {"type": "text", "text": text if name is None else f"{name}:\n\n{text}"}
        case PdfUrl():
            raise not_taken(_NO_ADDRESS, ("messages",))


def _check_documents(messages: tuple[Message, ...]) -> None:
    for index, message in enumerate(messages):
        inside = message.tool_result.parts if message.tool_result is not None else ()
        for field, parts in (((), message.parts), (("toolResult",), inside)):
            for place, part in enumerate(parts):
                if isinstance(part, PdfUrl):
                    raise not_taken(_NO_ADDRESS, ("messages", str(index), *field, "parts", str(place), "document", "url"))


def _tool_results(messages: list[Message], notes: Notes) -> Iterator[Block]:
    """The answers to one turn's calls. The protocol has no field for a failed tool: its content says so. A result takes text
    alone: images and documents follow in a message of their own."""
    later: list[Block] = []
    for message in messages:
        result = message.tool_result
        if result is None:
            raise refuse("A TOOL message needs its toolResult.", ("messages",))
        texts: list[str] = [result.content] if result.content else []
        others: list[Block] = []
        for block in (_part(part, notes) for part in result.parts):
            if block["type"] == "text":
                texts.append(block["text"])
            else:
                others.append(block)
        if others:
            texts.append("More of this result follows in the next user message.")
            later += [{"type": "text", "text": f"More of the result of tool call {result.id}:"}, *others]
        content = "\n\n".join(texts)
        yield {"role": "tool", "tool_call_id": result.id, "content": f"Error: {content}" if result.is_error else content}
    if later:
        notes.add("Images and documents of tool results were sent in a user message: the provider takes only text in a result.")
        yield {"role": "user", "content": later}


def _assistant(message: Message, notes: Notes, *, official: bool) -> Block:
    if not all(isinstance(part, Text) for part in message.parts):
        raise refuse("An assistant message can only have text.", ("messages",))
    text = "".join(part.text for part in message.parts if isinstance(part, Text))
    block: Block = {"role": "assistant", "content": text or None, **fields_of(message, MESSAGE_FIELDS)}
    if message.tool_calls:
        block["tool_calls"] = list(map(_tool_call, message.tool_calls))
    reasoning = message.reasoning
    if reasoning is not None:
        if official or not isinstance(reasoning, Mapping) or reasoning.get("format") != REASONING_FORMAT:
            notes.add(OTHER_REASONING)
        else:
            block |= {name: reasoning[name] for name in REASONING_FIELDS if name in reasoning}
    return block


def _tool_call(made: ToolCall) -> Block:
    function: Block = {"name": made.name, "arguments": made.arguments}
    beside = fields_of(made, CALL_FIELDS - {"function"})
    inside = beside.pop("function", None)
    if inside is not None:
        unknown = read_field(inside, dict[str, msgspec.Raw])
        function |= {name: value for name, value in unknown.items() if name not in FUNCTION_FIELDS}
    return {"id": made.id, "type": "function", "function": function, **beside}


def _format(call: ModelCall, body: dict[str, Any], notes: Notes, untaken: Set[str], *, official: bool) -> None:
    wanted = call.response_format
    if wanted is None:
        return
    if isinstance(wanted, JsonSchemaFormat):
        schema: Block = {"name": wanted.name, "schema": wanted.schema}
        if "strict" not in untaken:
            schema["strict"] = _is_strict(wanted.schema) if wanted.strict is None else wanted.strict
        elif wanted.strict is not None:
            notes.drop("strict")
        if wanted.strict and official and not _is_strict(wanted.schema):
            raise not_taken(_NOT_STRICT, ("responseFormat", "jsonSchema", "strict"))
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return
    body["response_format"] = {"type": "json_object"}
    if not any("json" in part.text.lower() for message in call.messages for part in message.parts if isinstance(part, Text)):
        body["messages"].insert(0, {"role": "system", "content": _SAYS_JSON})
        notes.add("A system message that asks for JSON was added because the provider requires one.")


def _is_strict(value: object) -> bool:
    """The strict dialect requires every object to be closed and every property to be required."""
    if isinstance(value, Mapping):
        if value.get("type") == "object":
            properties = value.get("properties")
            if value.get("additionalProperties") is not False or not isinstance(properties, Mapping):
                return False
            if set(properties) != set(value.get("required", ())):
                return False
        return all(map(_is_strict, value.values()))
    return not isinstance(value, list) or all(map(_is_strict, value))
