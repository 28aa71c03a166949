"""The model's answers, before they are put into a provider's words. They depend only on the request, so they are the same every
time."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from dataclasses import dataclass, field
from enum import Enum

import msgspec

from simulator.faults import HUGE_TOKENS, NO_FAULT, Said, Step
from simulator.models import Model
from simulator.quoting import asks_for_quotes, passages, quoting_answer
from simulator.structured import Json, Schema, instance, wrong_instance
from simulator.text import CHARS_PER_TOKEN, default_length, prose, tokens_of

_MARKER = re.compile(r"\[\[simulator ([^\]]*)\]\]")
_ANY_OBJECT = msgspec.Raw(b'{"type":"object","properties":{"answer":{"type":"string"}}}')
_REFUSED_TEXT = "I can't help with that."


class Stop(Enum):
    END = "end"
    LENGTH = "length"
    SEQUENCE = "sequence"
    TOOLS = "tools"
    FILTERED = "filtered"
    REFUSED = "refused"


class ToolMode(Enum):
    NONE = "none"
    AUTO = "auto"
    ANY = "any"
    NAMED = "named"


@dataclass(slots=True)
class Input:
    """Prompt tokens in disjoint classes."""

    uncached: int = 0
    read: int = 0
    write_5m: int = 0
    write_1h: int = 0

    @property
    def total(self) -> int:
        return self.uncached + self.read + self.write_5m + self.write_1h


@dataclass(slots=True)
class Ask:
    """One completion request, in words that both protocols share. `prompt` is the last user text. `fault` is what follows the
    `@` in the model's name. `cache_writes` are the prefixes (with seconds to live) that are known after the call."""

    model: Model
    stream: bool
    seed: int
    prompt: str
    input: Input
    cache_writes: list[tuple[bytes, float]]
    max_tokens: int
    thinking_tokens: int = 0
    show_thinking: bool = True
    tools: dict[str, msgspec.Raw] = field(default_factory=dict)
    tool_mode: ToolMode = ToolMode.AUTO
    tool_named: str | None = None
    parallel: bool = True
    tools_answered: bool = False
    schema: msgspec.Raw | None = None
    json_object: bool = False
    stop: tuple[str, ...] = ()
    include_usage: bool = True
    service_tier: str | None = None
    user: str | None = None
    fault: str | None = None


@dataclass(slots=True)
class Call:
    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class Answer:
    """`output_tokens` includes the thinking, as both providers bill it."""

    text: str
    stop: Stop
    thinking: str = ""
    thinking_tokens: int = 0
    thinking_field: str | None = None
    calls: list[Call] = field(default_factory=list)
    stopped_at: str | None = None
    visible_tokens: int = 0

    @property
    def output_tokens(self) -> int:
        return self.thinking_tokens + self.visible_tokens


def said_in(prompt: str) -> tuple[Said | None, str | None]:
    """Reads a `[[simulator key=value …]]` marker: what to answer, and the name of a fault. One within a passage is only text.
    Raises ValueError."""
    marker = _MARKER.search(passages(prompt)[1]) if "[[simulator " in prompt else None
    if marker is None:
        return None, None
    wishes = dict(word.split("=", 1) for word in shlex.split(marker[1]))
    fault = wishes.pop("fault", None)
    said = msgspec.convert(wishes, Said, strict=False)
    return said, fault


def answer(ask: Ask, said: Said | None, step: Step = NO_FAULT) -> Answer:
    """Returns the answer, cut at `max_tokens` and at stop sequences."""
    said = step.answer or said or Said()
    if step.fault == "refusal":
        return _cut(ask, Answer(_REFUSED_TEXT, Stop.REFUSED))
    if step.fault == "content_filter":
        return _cut(ask, Answer(prose(ask.seed, 5), Stop.FILTERED))
    thinking = ask.thinking_tokens if said.thinking_tokens is None else said.thinking_tokens
    made = _calls(ask, said, step) if ask.tools else []
    text = "" if made else _text(ask, said, step)
    result = Answer(text, Stop.TOOLS if made else Stop.END, calls=made)
    result.thinking_tokens = min(thinking, max(0, ask.max_tokens - 1))
    result.thinking_field = said.thinking_field
    result.thinking = prose(ask.seed + 1, result.thinking_tokens)
    return _cut(ask, result)


def signature(thinking: str, model: str) -> str:
    """Opaque to the client. It is checked when the client sends the block back."""
    mark = hashlib.blake2b(thinking.encode("utf-8", "surrogatepass"), digest_size=48, key=model.encode()[:64]).digest()
    return base64.b64encode(mark).decode("ascii")


def _text(ask: Ask, said: Said, step: Step) -> str:
    odd = {"empty": "", "nul": "before\x00after", "surrogate": "before\ud83dafter"}.get(step.fault)
    if odd is not None:
        return odd
    if said.text is not None:
        return said.text
    if said.json is not None:
        return _dumped(said.json)
    if (ask.schema is not None or ask.json_object) and step.fault != "not_json":
        schema = _decoded(_ANY_OBJECT if ask.schema is None else ask.schema)
        if step.fault == "wrong_schema":
            return _dumped(wrong_instance(schema))
        return _dumped(
            quoting_answer(ask.prompt, ask.seed, said.quotes) if asks_for_quotes(schema) else instance(schema, ask.seed)
        )
    tokens = HUGE_TOKENS if step.fault == "huge" else default_length(ask.seed)
    return prose(ask.seed, tokens if said.tokens is None else said.tokens)


def _calls(ask: Ask, said: Said, step: Step) -> list[Call]:
    names = _named(ask, said)
    made = []
    for index, name in enumerate(names):
        schema = _decoded(ask.tools[name])
        value = wrong_instance(schema) if step.fault == "wrong_schema" else instance(schema, ask.seed + index)
        made.append(Call(f"{ask.seed:08x}{index:04d}", name, _dumped(value if said.json is None else said.json)))
    return made


def _named(ask: Ask, said: Said) -> list[str]:
    """Which tools are called: the forced one, those that the marker names, or those whose name is in the last user text."""
    if ask.tool_mode is ToolMode.NONE:
        return []
    if ask.tool_mode is ToolMode.NAMED:
        return [ask.tool_named] if ask.tool_named in ask.tools else []
    names = [said.tool] * said.calls if said.tool in ask.tools else []
    if not names and not ask.tools_answered:
        names = [name for name in ask.tools if name in ask.prompt]
    if not names and ask.tool_mode is ToolMode.ANY:
        names = [next(iter(ask.tools))]
    return names if ask.parallel else names[:1]


def _cut(ask: Ask, result: Answer) -> Answer:
    for sequence in ask.stop:
        at = result.text.find(sequence)
        if at >= 0:
            result.text, result.stop, result.stopped_at = result.text[:at], Stop.SEQUENCE, sequence
    room = ask.max_tokens - result.thinking_tokens
    wanted = max(1, tokens_of(len(result.text)) + sum(call_tokens(call) for call in result.calls))
    result.visible_tokens = min(room, wanted)
    if wanted > room:
        result.stop = Stop.LENGTH
        result.text = result.text[: room * CHARS_PER_TOKEN]
        result.calls = _fitting(result.calls, room - tokens_of(len(result.text)))
    return result


def _fitting(calls: list[Call], room: int) -> list[Call]:
    kept = []
    for call in calls:
        if room <= tokens_of(len(call.name)):
            break
        left = room - tokens_of(len(call.name))
        kept.append(Call(call.id, call.name, call.arguments[: left * CHARS_PER_TOKEN]))
        room -= call_tokens(call)
    return kept


def call_tokens(call: Call) -> int:
    return tokens_of(len(call.name)) + tokens_of(len(call.arguments))


def _dumped(value: Json) -> str:
    return msgspec.json.encode(value).decode()


def _decoded(raw: msgspec.Raw) -> Schema:
    schema = msgspec.json.decode(raw)
    return schema if isinstance(schema, dict) else {}
