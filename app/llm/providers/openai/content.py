"""The parts of a message in OpenAI's protocol. They are read even if a server gives them another type.

A side field that cannot be read is left out with a note. The answer's own words are never left out: if text or a tool call
cannot be read, the answer is Malformed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from app.llm.providers.opaque_fields import Fields, unknown_fields
from app.llm.providers.openai.request import CALL_FIELDS, FUNCTION_FIELDS, MESSAGE_FIELDS
from app.llm.providers.unsupported import Notes
from app.llm.providers.wire_text import Malformed, word

ODD_FIELD = "A part of the answer that could not be read was left out."
LEGACY_CALL = "The provider answered with the legacy `function_call`; it was read as a tool call."
_TEXT_PARTS = {"text", "output_text", "input_text", None}
_REASONING_PARTS = {"thinking", "reasoning", "reasoning_text"}


@dataclass(slots=True)
class CallPiece:
    """One tool call, or a piece of it. A field is None if the server did not send it."""

    index: int | None
    id: str | None
    name: str | None
    arguments: str
    fields: Fields = field(default_factory=dict)


@dataclass(slots=True)
class MessageParts:
    text: str | None = None
    refusal: str | None = None
    reasoning: dict[str, str] = field(default_factory=dict)
    calls: list[CallPiece] = field(default_factory=list)
    fields: Fields = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not (self.text or self.refusal or self.reasoning or self.calls)


def read_message(message: Mapping[str, object], notes: Notes) -> MessageParts:
    """Reads a whole message, or the delta of a chunk. Raises Malformed."""
    parts = MessageParts(fields=unknown_fields(message, MESSAGE_FIELDS))
    _read_content(message.get("content"), parts, notes)
    refusal = message.get("refusal")
    if isinstance(refusal, str):
        parts.refusal = refusal or parts.refusal
    elif refusal:
        notes.add(ODD_FIELD)
    for name in ("reasoning_content", "reasoning"):
        written = _plain_text(message.get(name))
        if written:
            parts.reasoning[name] = written
        elif message.get(name):
            notes.add(ODD_FIELD)
    calls = message.get("tool_calls")
    if not calls and message.get("function_call"):
        calls = [{"function": message["function_call"]}]
        notes.add(LEGACY_CALL)
    parts.calls.extend(_calls(calls, parts, notes))
    return parts


def first_choice(choices: object) -> Mapping[str, object] | None:
    """Returns the choice with index 0, else the first one; None if there is none."""
    found = [each for each in choices if isinstance(each, Mapping)] if isinstance(choices, list) else []
    if isinstance(choices, Mapping):
        found = [choices]
    return next((each for each in found if each.get("index", 0) == 0), found[0] if found else None)


def _read_content(content: object, parts: MessageParts, notes: Notes) -> None:
    if content is None:
        return
    pieces = content if isinstance(content, list) else [content]
    texts: list[str] = []
    for piece in pieces:
        if isinstance(piece, str):
            texts.append(piece)
        elif isinstance(piece, Mapping):
            _read_piece(piece, texts, parts, notes)
        elif piece is not None:
            raise Malformed
    if texts:
        parts.text = "".join(texts)


def _read_piece(piece: Mapping[str, object], texts: list[str], parts: MessageParts, notes: Notes) -> None:
    kind = piece.get("type")
    if kind in _REASONING_PARTS:
        written = _plain_text(piece.get("thinking") or piece.get("reasoning") or piece.get("text"))
        if written:
            parts.reasoning["reasoning_content"] = parts.reasoning.get("reasoning_content", "") + written
    elif kind == "refusal" and isinstance(piece.get("refusal"), str):
        parts.refusal = (parts.refusal or "") + str(piece["refusal"])
    elif (written := _plain_text(piece.get("text"))) is not None:
        texts.append(written)
    elif kind in _TEXT_PARTS:
        raise Malformed
    else:
        notes.add(ODD_FIELD)


def _plain_text(value: object) -> str | None:
    """Reads a text, an object with a text, or a list of those."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return _plain_text(value.get("text", value.get("value")))
    if isinstance(value, list):
        found = [_plain_text(each) for each in value]
        return "".join(each or "" for each in found) if found else None
    return None


def _calls(value: object, parts: MessageParts, notes: Notes) -> Iterator[CallPiece]:
    if not value:
        return
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        if not parts.text:
            raise Malformed
        notes.add(ODD_FIELD)
        return
    for each in value:
        if isinstance(each, Mapping):
            yield _call(each)
        elif each is not None:
            if not parts.text:
                raise Malformed
            notes.add(ODD_FIELD)


def _call(body: Mapping[str, object]) -> CallPiece:
    """Some servers put name and arguments beside the id, without a `function` around them."""
    function = body.get("function")
    named = function if isinstance(function, Mapping) else body
    fields = unknown_fields(body, CALL_FIELDS if named is function else CALL_FIELDS | FUNCTION_FIELDS)
    if named is function and (inside := unknown_fields(named, FUNCTION_FIELDS)):
        fields["function"] = inside
    index, call_id = body.get("index"), body.get("id")
    return CallPiece(
        index=index if isinstance(index, int) and not isinstance(index, bool) else None,
        id=str(call_id) if isinstance(call_id, (str, int)) and call_id != "" else None,
        name=word(named.get("name")),
        arguments=arguments_text(named.get("arguments")),
        fields=fields,
    )


def arguments_text(arguments: object) -> str:
    """Some servers send an object although the protocol has JSON text; an empty object says nothing yet. Raises Malformed."""
    if isinstance(arguments, str):
        return arguments
    if arguments and not isinstance(arguments, Mapping):
        raise Malformed
    return msgspec.json.encode(arguments).decode() if arguments else ""
