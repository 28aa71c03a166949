"""A ModelCall as the body of Anthropic's POST /v1/messages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from operator import itemgetter
from typing import Any, TypeAlias

import msgspec

from app.llm.messages import (
    AskedTier,
    CacheTtl,
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
    Tool,
    ToolCall,
    ToolChoiceMode,
)
from app.llm.providers.efforts import settle_effort
from app.llm.providers.forced_tool import is_forced, leave_the_choice
from app.llm.providers.opaque_fields import RawFields, fields_of, read_field
from app.llm.providers.options import add_options
from app.llm.providers.unsupported import OTHER_REASONING, Notes, not_taken, refuse
from app.llm.refused_parameters import EFFORT, Parameters
from app.settings import ProviderKindName

REASONING_FORMAT = "anthropic"
JSON_TOOL = "json_answer"
"""The tool whose input is the answer. It is used if the API's own format cannot express the requested JSON."""

INVALID_JSON = "INVALID_JSON"
WRAPPED_ARGUMENTS = f"Arguments of a tool call that are no JSON object were sent as the field {INVALID_JSON} of one."
CALL_FIELDS = frozenset({"cache_control", "id", "input", "name", "type"})
TEXT_FIELDS = frozenset({"cache_control", "citations", "text", "type"})
"""What is read of a tool_use and of a text block. Other fields are the provider's state."""

Block: TypeAlias = "dict[str, Any]"
_CACHE_MARKS = 4
_CHOICES = {ToolChoiceMode.AUTO: "auto", ToolChoiceMode.NONE: "none", ToolChoiceMode.REQUIRED: "any"}
_BUDGETS = {
    ReasoningEffort.LOW: 1024,
    ReasoningEffort.MEDIUM: 4096,
    ReasoningEffort.HIGH: 16_384,
    ReasoningEffort.XHIGH: 32_768,
    ReasoningEffort.MAX: 65_536,
}
_TAKEN = frozenset({ReasoningEffort.NONE, *_BUDGETS})
_ALWAYS_THINKS = re.compile(r"claude-(fable|mythos)-\d")
"""Models whose thinking cannot be turned off."""
_NO_XHIGH = re.compile(r"claude-[a-z]+-4[-.]6(?!\d)")
_MIN_BUDGET = 1024
_BY_BUDGET = re.compile(r"-(3(-[57])?|4|4-0|4-1|4-5)(-\d{8})?$|-3-|-4-20\d{6}$")
"""Models whose thinking is limited in tokens. Later models take an effort instead."""

_SAMPLED = re.compile(r"claude-(instant|[123](?!\d)|[a-z]+-4(?!\d|[-.]([7-9]|\d\d)(?!\d)))")
"""Claude models that take a temperature or topP. Models from 4.7 on refuse both."""
_ONE_SAMPLED = re.compile(r"claude-(opus-4[-.]1|[a-z]+-4[-.][56])(?!\d)")
"""Models that take only one of the two."""
_NOT_STRICT = "The provider takes it as strict only if every object of the schema is closed."
_MAX_TEMPERATURE = 1.0
_MIN_TOP_P_THINKING = 0.95
FAST_BETA = "fast-mode-2026-02-01"
_TIERS: Mapping[AskedTier, Block] = {
    AskedTier.STANDARD: {"service_tier": "standard_only"},
    AskedTier.PRIORITY: {"service_tier": "auto"},
    AskedTier.FAST: {"speed": "fast"},
}
REFUSABLE = Parameters(
    own=frozenset({"service_tier", "speed", "disable_parallel_tool_use"}),
    asked=frozenset({"temperature", "tool_choice", "top_p", "strict"}),
)


def encode_request(
    call: ModelCall, notes: Notes, native_schema: Mapping[str, Any] | None, untaken: Set[str], *, stream: bool
) -> bytes:
    """`native_schema` is the requested schema in the API's dialect; None if the dialect cannot express it. `untaken` are
    parameters that this model has refused before. Raises Refused(InvalidInput) if the protocol cannot express the call."""
    body: dict[str, Any] = {"model": call.model, "max_tokens": call.max_output_tokens}
    marks = _Marks(sum(tool.cache_up_to for tool in call.tools) + sum(each.cache_up_to for each in call.messages), notes)
    tools = [_tool(tool, place, marks, notes, untaken) for place, tool in enumerate(call.tools)]
    leading = next((index for index, message in enumerate(call.messages) if message.role is not Role.SYSTEM), len(call.messages))
    if leading:
        body["system"] = _short([block for message in call.messages[:leading] for block in _system(message, marks)])
    body["messages"] = list(_turns(call.messages[leading:], marks, notes))
    if call.stop:
        body["stop_sequences"] = call.stop
    body |= sampling(call, untaken)
    _note_sampling(call, body, notes)
    _reason(call, body, notes, untaken)
    _tier(call, body, notes, untaken)
    _tools(body, tools, _json_tool(call, body, native_schema), notes, untaken)
    add_options(body, call, ProviderKindName.ANTHROPIC, notes)
    if stream:
        body["stream"] = True
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        raise refuse("The text contains half of a surrogate pair.", ("messages",)) from None


def needs_sampling_version(call: ModelCall, untaken: Set[str]) -> bool:
    return bool(sampling(call, untaken)) or "top_k" in (call.provider_options or {}).get(ProviderKindName.ANTHROPIC.value, {})


def sampling(call: ModelCall, untaken: Set[str]) -> dict[str, float]:
    """Returns those of `temperature` and `top_p` that the model takes. Only the old version of the API has them. While a Claude
    model thinks, its temperature is fixed and top_p has a minimum."""
    if "claude" in call.model and not _SAMPLED.search(call.model):
        return {}
    taken: dict[str, float] = {}
    if call.temperature is not None and "temperature" not in untaken and not thinks(call, untaken):
        taken["temperature"] = min(call.temperature, _MAX_TEMPERATURE)
    if call.top_p is not None and "top_p" not in untaken and (not thinks(call, untaken) or call.top_p >= _MIN_TOP_P_THINKING):
        taken["top_p"] = call.top_p
    if len(taken) > 1 and _ONE_SAMPLED.search(call.model):
        del taken["top_p"]
    return taken


def _note_sampling(call: ModelCall, body: Block, notes: Notes) -> None:
    for name, sent, value in (("temperature", "temperature", call.temperature), ("topP", "top_p", call.top_p)):
        if value is not None and sent not in body:
            notes.drop(name)
    if call.temperature is not None and call.temperature > body.get("temperature", call.temperature):
        notes.change("temperature", f"{call.temperature:g}", f"{_MAX_TEMPERATURE:g}")
    if call.seed is not None:
        notes.drop("seed")


class _Marks:
    """Assigns the protocol's four cache marks. The last marks win, because each covers everything before it."""

    def __init__(self, wanted: int, notes: Notes) -> None:
        self._skip = max(0, wanted - _CACHE_MARKS)
        self._notes = notes
        self._short = False
        if self._skip:
            notes.add(f"Only the last {_CACHE_MARKS} cache marks were sent: the provider takes no more.")

    def put(self, marked: Message | Tool, blocks: list[Block]) -> list[Block]:
        if not marked.cache_up_to or not blocks:
            return blocks
        if self._skip:
            self._skip -= 1
        else:
            blocks[-1]["cache_control"] = self._control(marked.cache_ttl)
        return blocks

    def _control(self, ttl: CacheTtl | None) -> Block:
        """The API refuses a mark of an hour after a mark of five minutes, which is the default."""
        if ttl is CacheTtl.ONE_HOUR and not self._short:
            return {"type": "ephemeral", "ttl": ttl.value}
        if ttl is CacheTtl.ONE_HOUR:
            self._notes.add("cacheTtl ONE_HOUR was changed to FIVE_MINUTES: an earlier cache mark is kept no longer.")
        self._short = True
        return {"type": "ephemeral"}


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


def settled_effort(call: ModelCall, untaken: Set[str]) -> ReasoningEffort | None:
    if call.reasoning_effort is None:
        return None
    taken = _TAKEN - {ReasoningEffort.XHIGH} if _NO_XHIGH.search(call.model) else _TAKEN
    if _ALWAYS_THINKS.search(call.model):
        taken -= {ReasoningEffort.NONE}
    return settle_effort(call.reasoning_effort, untaken, taken)


def thinks(call: ModelCall, untaken: Set[str]) -> bool:
    return settled_effort(call, untaken) not in {None, ReasoningEffort.NONE}


def _reason(call: ModelCall, body: dict[str, Any], notes: Notes, untaken: Set[str]) -> None:
    asked = call.reasoning_effort
    if asked is None:
        return
    effort = None if EFFORT in untaken else settled_effort(call, untaken)
    if effort is None:
        notes.drop("reasoningEffort")
        return
    notes.settle("reasoningEffort", asked.value, effort.value)
    if effort is ReasoningEffort.NONE:
        body["thinking"] = {"type": "disabled"}
    elif not _BY_BUDGET.search(call.model):
        body["thinking"] = {"type": "adaptive"}
        body["output_config"] = {"effort": effort.value.lower()}
    elif call.max_output_tokens > _MIN_BUDGET:
        body["thinking"] = {"type": "enabled", "budget_tokens": min(_BUDGETS[effort], call.max_output_tokens - 1)}
    else:
        notes.add(f"reasoningEffort was left out: {call.model} needs an output cap above {_MIN_BUDGET} tokens to reason.")


def _tier(call: ModelCall, body: dict[str, Any], notes: Notes, untaken: Set[str]) -> None:
    if call.service_tier is None:
        return
    fields = _TIERS.get(call.service_tier)
    if fields is None or not untaken.isdisjoint(fields):
        notes.drop("serviceTier")
    else:
        body |= fields


def _json_tool(call: ModelCall, body: dict[str, Any], native_schema: Mapping[str, Any] | None) -> Block | None:
    """Requests the answer's format. Returns the tool to answer with if the API has no format for it."""
    wanted = call.response_format
    if wanted is None:
        return None
    if native_schema is not None:
        body.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": native_schema}
        return None
    if isinstance(wanted, JsonSchemaFormat) and wanted.strict:
        raise not_taken(_NOT_STRICT, ("responseFormat", "jsonSchema", "strict"))
    schema = wanted.schema if isinstance(wanted, JsonSchemaFormat) else {"type": "object"}
    if schema.get("type") != "object":
        raise not_taken(f"{call.model} takes this schema only with an object at its root.", ("responseFormat",))
    return {"name": JSON_TOOL, "description": "Gives the whole answer, as one JSON object.", "input_schema": schema}


def _tool(tool: Tool, place: int, marks: _Marks, notes: Notes, untaken: Set[str]) -> Block:
    block: Block = {"name": tool.name, "input_schema": tool.parameters}
    if tool.description is not None:
        block["description"] = tool.description
    if tool.strict:
        if "strict" in untaken:
            notes.drop("strict")
        elif not _is_closed(tool.parameters):
            raise not_taken(_NOT_STRICT, ("tools", str(place), "strict"))
        else:
            block["strict"] = True
    marks.put(tool, [block])
    return block


def _tools(body: dict[str, Any], tools: list[Block], json_tool: Block | None, notes: Notes, untaken: Set[str]) -> None:
    """The API does not allow that a reasoning model is forced to use a tool."""
    call = notes.call
    may_force = "tool_choice" not in untaken and body.get("thinking", {}).get("type") not in {"enabled", "adaptive"}
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
    if tools and call.parallel_tool_calls is False:
        _one_at_a_time(body, notes, untaken)
    if json_tool is not None:
        tools = [*tools, json_tool]
    if tools:
        body["tools"] = tools


def _one_at_a_time(body: dict[str, Any], notes: Notes, untaken: Set[str]) -> None:
    if "disable_parallel_tool_use" in untaken:
        notes.drop("parallelToolCalls")
        return
    choice = body.setdefault("tool_choice", {"type": "auto"})
    if choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True


def _json_choice(call: ModelCall, *, may_force: bool) -> Block:
    if not may_force:
        return {"type": "auto"}
    if call.tools and call.tool_choice is not ToolChoiceMode.NONE:
        return {"type": "any"}
    return {"type": "tool", "name": JSON_TOOL}


def _is_closed(value: object) -> bool:
    """Every object of a strict tool must have `additionalProperties: false`."""
    if isinstance(value, Mapping):
        if value.get("type") == "object" and value.get("additionalProperties") is not False:
            return False
        return all(map(_is_closed, value.values()))
    return not isinstance(value, list) or all(map(_is_closed, value))


def has_open_object(value: object) -> bool:
    if isinstance(value, Mapping):
        if value.get("type") == "object":
            opened = value.get("additionalProperties", False) is not False or "patternProperties" in value
            if opened or not value.get("properties"):
                return True
        return any(map(has_open_object, value.values()))
    return isinstance(value, list) and any(map(has_open_object, value))
