"""A ModelCall as the body of Anthropic's POST /v1/messages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from operator import itemgetter
from typing import Any, TypeAlias

import msgspec

from app.llm.messages import (
    ImageUrl,
    InlineImage,
    InlinePdf,
    Json,
    JsonSchemaFormat,
    Message,
    ModelCall,
    NamedTool,
    Part,
    PdfUrl,
    ReasoningEffort,
    Role,
    Text,
    TextDocument,
    ToolCall,
    ToolChoiceMode,
)
from app.llm.providers.forced_tool import is_forced, leave_the_choice
from app.llm.providers.opaque_fields import RawFields, fields_of, read_field
from app.llm.providers.unsupported import OTHER_REASONING, Notes, refuse
from app.llm.refused_parameters import Parameters

REASONING_FORMAT = "anthropic"
JSON_TOOL = "json_answer"
"""The tool whose input is the answer. It is used if the API's own format cannot express the requested JSON."""

INVALID_JSON = "INVALID_JSON"
WRAPPED_ARGUMENTS = f"Arguments of a tool call that are no JSON object were sent as the field {INVALID_JSON} of one."
CALL_FIELDS = frozenset({"cache_control", "id", "input", "name", "type"})
TEXT_FIELDS = frozenset({"cache_control", "citations", "text", "type"})
"""What is read of a tool_use and of a text block. Other fields are the provider's state."""

_CACHE_MARKS = 4
_EPHEMERAL = {"type": "ephemeral"}
_CHOICES = {ToolChoiceMode.AUTO: "auto", ToolChoiceMode.NONE: "none", ToolChoiceMode.REQUIRED: "any"}
_EFFORTS = {ReasoningEffort.LOW: "low", ReasoningEffort.MEDIUM: "medium", ReasoningEffort.HIGH: "high"}
_BUDGETS = {ReasoningEffort.LOW: 1024, ReasoningEffort.MEDIUM: 4096, ReasoningEffort.HIGH: 16_384}
_MIN_BUDGET = 1024
_BY_BUDGET = re.compile(r"-(3(-[57])?|4|4-0|4-1|4-5)(-\d{8})?$|-3-|-4-20\d{6}$")
"""Models whose thinking is limited in tokens. Later models take an effort instead."""

_SAMPLED = re.compile(r"claude-(instant|[123](?!\d)|[a-z]+-4(?!\d|[-.]([7-9]|\d\d)(?!\d)))")
"""Claude models that take a temperature or topP. Models from 4.7 on refuse both."""
_ONE_SAMPLED = re.compile(r"claude-(opus-4[-.]1|[a-z]+-4[-.][56])(?!\d)")
"""Models that take only one of the two."""
_MAX_TEMPERATURE = 1.0
_MIN_TOP_P_THINKING = 0.95
REFUSABLE = Parameters(asked=frozenset({"temperature", "tool_choice", "top_p"}))

Block: TypeAlias = "dict[str, Any]"


def encode_request(
    call: ModelCall, notes: Notes, native_schema: Mapping[str, Any] | None, untaken: Set[str], *, stream: bool
) -> bytes:
    """`native_schema` is the requested schema in the API's dialect; None if the dialect cannot express it. `untaken` are
    parameters that this model has refused before. Raises Refused(InvalidInput) if the protocol cannot express the call."""
    body: dict[str, Any] = {"model": call.model, "max_tokens": call.max_output_tokens}
    marks = _Marks(sum(message.cache_up_to for message in call.messages), notes)
    leading = next((index for index, message in enumerate(call.messages) if message.role is not Role.SYSTEM), len(call.messages))
    if leading:
        body["system"] = _short([block for message in call.messages[:leading] for block in _system(message, marks)])
    body["messages"] = list(_turns(call.messages[leading:], marks, notes))
    if call.stop:
        body["stop_sequences"] = call.stop
    body |= sampling(call, untaken)
    _note_sampling(call, body, notes)
    _reason(call, body, notes)
    may_force = "tool_choice" not in untaken and body.get("thinking", {}).get("type") not in {"enabled", "adaptive"}
    _tools(call, body, _json_tool(call, body, native_schema), notes, may_force=may_force)
    if stream:
        body["stream"] = True
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        raise refuse("The text contains half of a surrogate pair.", ("messages",)) from None


def sampling(call: ModelCall, untaken: Set[str]) -> dict[str, float]:
    """Returns those of `temperature` and `top_p` that the model takes. Only the old version of the API has them. While a Claude
    model thinks, its temperature is fixed and top_p has a minimum."""
    if "claude" in call.model and not _SAMPLED.search(call.model):
        return {}
    taken: dict[str, float] = {}
    if call.temperature is not None and "temperature" not in untaken and not thinks(call):
        taken["temperature"] = min(call.temperature, _MAX_TEMPERATURE)
    if call.top_p is not None and "top_p" not in untaken and (not thinks(call) or call.top_p >= _MIN_TOP_P_THINKING):
        taken["top_p"] = call.top_p
    if len(taken) > 1 and _ONE_SAMPLED.search(call.model):
        del taken["top_p"]
    return taken


def _note_sampling(call: ModelCall, body: Block, notes: Notes) -> None:
    for name, sent, value in (("temperature", "temperature", call.temperature), ("topP", "top_p", call.top_p)):
        if value is not None and sent not in body:
            notes.drop(name)
    if call.temperature is not None and call.temperature > body.get("temperature", call.temperature):
        notes.lower("temperature", f"{call.temperature:g}", f"{_MAX_TEMPERATURE:g}")
    if call.seed is not None:
        notes.drop("seed")


class _Marks:
    """Assigns the protocol's four cache marks. The last marks win, because each covers everything before it."""

    def __init__(self, wanted: int, notes: Notes) -> None:
        self._skip = max(0, wanted - _CACHE_MARKS)
        if self._skip:
            notes.add(f"Only the last {_CACHE_MARKS} cache marks were sent: the provider takes no more.")

    def put(self, message: Message, blocks: list[Block]) -> list[Block]:
        if not message.cache_up_to or not blocks:
            return blocks
        if self._skip:
            self._skip -= 1
        else:
            blocks[-1]["cache_control"] = _EPHEMERAL
        return blocks


def _system(message: Message, marks: _Marks) -> list[Block]:
    if not all(isinstance(part, Text) for part in message.parts):
        raise refuse("A system message can only have text.", ("messages",))
    return marks.put(message, [_part(part) for part in message.parts if not _is_empty(part)])


def _turns(messages: tuple[Message, ...], marks: _Marks, notes: Notes) -> Iterator[Block]:
    results: list[Block] = []
    for message in messages:
        if message.role is Role.TOOL:
            results += marks.put(message, _tool_result(message))
            continue
        if results:
            yield {"role": "user", "content": results}
            results = []
        if message.role is Role.SYSTEM:
            yield {"role": "system", "content": _short(_system(message, marks))}
        elif message.role is Role.USER:
            blocks = [_part(part) for part in message.parts if not _is_empty(part)]
            yield {"role": "user", "content": _short(marks.put(message, blocks))}
        else:
            yield {"role": "assistant", "content": _short(_assistant(message, marks, notes))}
    if results:
        yield {"role": "user", "content": results}


def _tool_result(message: Message) -> list[Block]:
    result = message.tool_result
    if result is None:
        raise refuse("A TOOL message needs its toolResult.", ("messages",))
    content: str | list[Block] = result.content
    if result.parts:
        content = [_part(part) for part in (Text(result.content), *result.parts) if not _is_empty(part)]
    block: Block = {"type": "tool_result", "tool_use_id": result.id, "content": content}
    if result.is_error:
        block["is_error"] = True
    return [block]


def _assistant(message: Message, marks: _Marks, notes: Notes) -> list[Block]:
    state = fields_of(message, frozenset())
    blocks = [_part(part) for part in message.parts if not _is_empty(part)]
    if blocks and "text" in state:
        unknown = read_field(state["text"], dict[str, msgspec.Raw])
        blocks[-1] |= {name: value for name, value in unknown.items() if name not in TEXT_FIELDS}
    blocks += [_tool_use(call, notes) for call in message.tool_calls]
    marks.put(message, blocks)
    between = _state_blocks(state)
    if message.reasoning is not None:
        between += _reasoning_blocks(message.reasoning, notes.call.model, notes)
    for at, block in sorted(between, key=itemgetter(0)):
        blocks.insert(at, block)
    return blocks


def _state_blocks(state: RawFields) -> list[tuple[int, Block]]:
    """Blocks of types that are not known, with their places in the answer."""
    found = state.get("blocks")
    if found is None:
        return []
    blocks = read_field(found, list[tuple[int, dict[str, msgspec.Raw]]])
    return [(at, {name: value for name, value in block.items() if name != "cache_control"}) for at, block in blocks]


def _reasoning_blocks(reasoning: Json, model: str, notes: Notes) -> list[tuple[int, Block]]:
    """The reasoning blocks as the model wrote them, with their places in its answer. They are signed for that model alone."""
    if not isinstance(reasoning, dict) or reasoning.get("format") != REASONING_FORMAT or reasoning.get("model") != model:
        notes.add(OTHER_REASONING)
        return []
    try:
        return msgspec.convert(reasoning.get("blocks"), list[tuple[int, dict[str, Any]]])
    except msgspec.ValidationError:
        raise refuse("The reasoning was changed. Pass it back as the model wrote it.", ("messages",)) from None


def _tool_use(call: ToolCall, notes: Notes) -> Block:
    """The API accepts only objects as input."""
    arguments: Mapping[str, Any]
    try:
        arguments = msgspec.json.decode(call.arguments or "{}", type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        arguments = {INVALID_JSON: call.arguments}
        notes.add(WRAPPED_ARGUMENTS)
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments, **fields_of(call, CALL_FIELDS)}


def _part(part: Part) -> Block:
    match part:
        case Text(text=text):
            return {"type": "text", "text": text}
        case ImageUrl(url=url):
            return {"type": "image", "source": {"type": "url", "url": url}}
        case InlineImage(data=data, media_type=media_type):
            return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}
        case PdfUrl(url=url):
            source = {"type": "url", "url": url}
        case InlinePdf(data=data):
            source = {"type": "base64", "media_type": "application/pdf", "data": data}
        case TextDocument(text=text):
            source = {"type": "text", "media_type": "text/plain", "data": text}
    block: Block = {"type": "document", "source": source}
    if part.name is not None:
        block["title"] = part.name
    return block


def _is_empty(part: Part) -> bool:
    """The API refuses empty text blocks."""
    return isinstance(part, Text) and not part.text


def _short(blocks: list[Block]) -> str | list[Block]:
    """A single text that has nothing beside it is sent as a string."""
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        text: str = blocks[0]["text"]
        return text
    return blocks


def thinks(call: ModelCall) -> bool:
    return call.reasoning_effort not in {None, ReasoningEffort.NONE}


def _reason(call: ModelCall, body: dict[str, Any], notes: Notes) -> None:
    effort = call.reasoning_effort
    if effort is None:
        return
    if effort is ReasoningEffort.NONE:
        body["thinking"] = {"type": "disabled"}
    elif not _BY_BUDGET.search(call.model):
        body["thinking"] = {"type": "adaptive"}
        body["output_config"] = {"effort": _EFFORTS[effort]}
    elif call.max_output_tokens > _MIN_BUDGET:
        body["thinking"] = {"type": "enabled", "budget_tokens": min(_BUDGETS[effort], call.max_output_tokens - 1)}
    else:
        notes.add(f"reasoningEffort was left out: {call.model} needs an output cap above {_MIN_BUDGET} tokens to reason.")


def _json_tool(call: ModelCall, body: dict[str, Any], native_schema: Mapping[str, Any] | None) -> Block | None:
    """Requests the answer's format. Returns the tool to answer with if the API has no format for it."""
    wanted = call.response_format
    if wanted is None:
        return None
    if native_schema is not None:
        body.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": native_schema}
        return None
    schema = wanted.schema if isinstance(wanted, JsonSchemaFormat) else {"type": "object"}
    if schema.get("type") != "object":
        raise refuse(f"{call.model} takes this schema only with an object at its root.", ("responseFormat",))
    return {"name": JSON_TOOL, "description": "Gives the whole answer, as one JSON object.", "input_schema": schema}


def _tools(call: ModelCall, body: dict[str, Any], json_tool: Block | None, notes: Notes, *, may_force: bool) -> None:
    """The API does not allow that a reasoning model is forced to use a tool."""
    tools: list[Block] = []
    for tool in call.tools:
        entry: Block = {"name": tool.name, "input_schema": tool.parameters}
        if tool.description is not None:
            entry["description"] = tool.description
        tools.append(entry)
    choice = call.tool_choice
    if not may_force and is_forced(call):
        leave_the_choice(notes)
        choice = ToolChoiceMode.AUTO
    if isinstance(choice, NamedTool):
        body["tool_choice"] = {"type": "tool", "name": choice.name}
    elif json_tool is not None:
        body["tool_choice"] = _json_choice(call, may_force=may_force)
    elif choice is not None and tools:
        body["tool_choice"] = {"type": _CHOICES[choice]}
    if json_tool is not None:
        tools.append(json_tool)
    if tools:
        body["tools"] = tools


def _json_choice(call: ModelCall, *, may_force: bool) -> Block:
    if not may_force:
        return {"type": "auto"}
    if call.tools and call.tool_choice is not ToolChoiceMode.NONE:
        return {"type": "any"}
    return {"type": "tool", "name": JSON_TOOL}
