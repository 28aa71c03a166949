"""Fields that a provider puts beside those of its protocol, such as thought signatures. They are kept unchanged and passed back
to the provider that made them. Another provider gets the message without them, and a note says so."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import msgspec

from app.llm.messages import Message, ModelCall, ProviderState, ToolCall
from app.llm.providers.unsupported import Notes, refuse

OTHER_STATE = "Provider state that another provider made was not sent."
_PRICED = "cache_control"
"""The server sets it itself, because it costs money."""
_EMPTY: tuple[object, ...] = (None, False, "", [], {})
_REPLACED = frozenset(
    {"format", "id", "index", "name", "object", "provider", "role", "signature", "status", "thought_signature", "type"}
)
"""The strings of a stream that are sent whole. Other strings are sent in pieces."""
_WORDS = ("text", "summary", "thinking", "content")

_T = TypeVar("_T")
Fields: TypeAlias = dict[str, object]
RawFields: TypeAlias = dict[str, msgspec.Raw]
_RAW_FIELDS = msgspec.json.Decoder(RawFields)


def unknown_fields(body: Mapping[str, object], known: Set[str]) -> Fields:
    """The fields that have a value."""
    return {name: value for name, value in body.items() if name not in known and not _is_empty(value)}


def _is_empty(value: object) -> bool:
    return any(value is empty for empty in _EMPTY[:2]) or value in _EMPTY[2:]


def join(fields: Fields, later: Mapping[str, object]) -> None:
    """Adds the fields of the next chunk of a stream. Objects are joined, lists grow, and strings grow unless they are sent
    whole."""
    for name, value in later.items():
        known = fields.get(name)
        if isinstance(known, str) and isinstance(value, str) and name not in _REPLACED:
            fields[name] = known + value
        elif isinstance(known, dict) and isinstance(value, Mapping):
            join(known, value)
        elif isinstance(known, list) and isinstance(value, list):
            for item in value:
                _append(known, item)
        elif not _is_empty(value) or known is None:
            fields[name] = value


def _append(items: list[object], item: object) -> None:
    """The last item of a list grows if it is a piece of a text and the new item is the next piece."""
    last = items[-1] if items else None
    if isinstance(last, dict) and isinstance(item, Mapping) and _continues(last, item):
        join(last, item)
    else:
        items.append(item)


def _continues(last: Mapping[str, object], item: Mapping[str, object]) -> bool:
    same = all(last.get(name) == item.get(name) for name in ("type", "index"))
    one_id = last.get("id") == item.get("id") or not item.get("id")
    words = any(isinstance(last.get(name), str) and isinstance(item.get(name, ""), str) for name in _WORDS)
    return same and one_id and words and (not last.get("signature") or not any(item.get(name) for name in _WORDS))


@dataclass(frozen=True, slots=True)
class Maker:
    """The provider of an adapter: `provider` is its name in the configuration."""

    provider: str
    kind: str

    def state(self, fields: Mapping[str, object] | None) -> ProviderState | None:
        """Returns None if there are no fields. Raises RecursionError if they are nested too deeply to be written."""
        return ProviderState(self.provider, self.kind, msgspec.json.encode(fields).decode()) if fields else None

    def with_own_state(self, call: ModelCall, notes: Notes) -> ModelCall:
        """Returns the call without the state that other providers made."""
        if not any(map(_has_state, call.messages)):
            return call
        return replace(call, messages=tuple(self._message(message, notes) for message in call.messages))

    def _message(self, message: Message, notes: Notes) -> Message:
        if not _has_state(message):
            return message
        return replace(
            message,
            provider_state=self._own(message.provider_state, notes),
            tool_calls=tuple(replace(made, provider_state=self._own(made.provider_state, notes)) for made in message.tool_calls),
        )

    def _own(self, state: ProviderState | None, notes: Notes) -> ProviderState | None:
        if state is None or (state.provider, state.kind) == (self.provider, self.kind):
            return state
        notes.add(OTHER_STATE)
        return None


def given_back(call: ModelCall) -> frozenset[str]:
    """Names of the fields that the provider itself made, and that the call gives back to it."""
    found: set[str] = set()
    for message in call.messages:
        if isinstance(message.reasoning, dict):
            found |= message.reasoning.keys()
        found.update(fields_of(message, frozenset()))
        for made in message.tool_calls:
            found.update(fields_of(made, frozenset()))
    return frozenset(found - {"format"})


def without_fields(call: ModelCall, refused: Set[str], notes: Notes) -> ModelCall:
    """Returns the call without the fields that its provider makes and then refuses."""
    if not refused:
        return call
    notes.add(f"Fields of earlier answers were left out: {call.model} does not take {', '.join(sorted(refused))} back.")
    return replace(call, messages=tuple(_without(message, refused) for message in call.messages))


def _without(message: Message, refused: Set[str]) -> Message:
    reasoning = message.reasoning
    if isinstance(reasoning, dict):
        reasoning = {name: value for name, value in reasoning.items() if name not in refused}
    return replace(
        message,
        reasoning=reasoning,
        provider_state=_state_without(message, refused),
        tool_calls=tuple(replace(made, provider_state=_state_without(made, refused)) for made in message.tool_calls),
    )


def _state_without(holder: Message | ToolCall, refused: Set[str]) -> ProviderState | None:
    state = holder.provider_state
    return None if state is None else replace(state, fields=msgspec.json.encode(fields_of(holder, refused)).decode())


def _has_state(message: Message) -> bool:
    return message.provider_state is not None or any(made.provider_state is not None for made in message.tool_calls)


def read_field(raw: msgspec.Raw, expected: type[_T]) -> _T:
    """Reads a field of state in our own form. Raises Refused(InvalidInput) if it was changed."""
    try:
        return msgspec.json.decode(raw, type=expected)
    except (msgspec.MsgspecError, RecursionError):
        raise refuse("The provider state was changed. Pass it back as it came.", ("messages",)) from None


def fields_of(holder: Message | ToolCall, known: Set[str]) -> RawFields:
    """What the provider put there, unchanged. It never replaces a known field."""
    if holder.provider_state is None:
        return {}
    fields = _RAW_FIELDS.decode(holder.provider_state.fields)
    return {name: value for name, value in fields.items() if name not in known and name != _PRICED}
