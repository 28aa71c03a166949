"""Provider state in JSON, as completions return it and messages pass it back.

The `reasoning` of a completion also holds all of its provider state, so a client that passes back only `reasoning` can continue
a tool loop. State in its own field takes precedence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from app.llm.messages import Json, ProviderState, ToolCall

_WITHIN_REASONING = "providerState"
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Form(msgspec.Struct, forbid_unknown_fields=True):
    provider: str
    kind: str
    fields: str


class _Within(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    message: _Form | None = None
    tool_calls: dict[str, _Form] = {}


@dataclass(frozen=True, slots=True)
class ReadReasoning:
    """Splits what was passed back: `reasoning` as the model wrote it, the provider state in it, and the state of tool calls by
    their ids."""

    reasoning: Json = None
    message: ProviderState | None = None
    tool_calls: Mapping[str, ProviderState] = field(default_factory=dict)


def to_json(state: ProviderState | None) -> Json:
    return None if state is None else {"provider": state.provider, "kind": state.kind, "fields": state.fields}


def from_json(value: object) -> ProviderState:
    """Raises ValueError if the text was not made by `to_json`."""
    return _state(msgspec.convert(value, _Form))


def with_state(reasoning: Json, message: ProviderState | None, tool_calls: Iterable[ToolCall]) -> Json:
    """Returns None if there is neither reasoning nor state."""
    calls: dict[str, Json] = {made.id: to_json(made.provider_state) for made in tool_calls if made.provider_state is not None}
    if message is None and not calls:
        return reasoning
    within: Json = {"message": to_json(message), "toolCalls": calls}
    return {**(reasoning if isinstance(reasoning, dict) else {}), _WITHIN_REASONING: within}


def without_state(reasoning: Json) -> ReadReasoning:
    """Reverses `with_state`. Raises ValueError if the state was changed."""
    if not isinstance(reasoning, dict) or _WITHIN_REASONING not in reasoning:
        return ReadReasoning(reasoning)
    within = msgspec.convert(reasoning[_WITHIN_REASONING], _Within)
    return ReadReasoning(
        {name: value for name, value in reasoning.items() if name != _WITHIN_REASONING} or None,
        None if within.message is None else _state(within.message),
        {call_id: _state(form) for call_id, form in within.tool_calls.items()},
    )


def _state(form: _Form) -> ProviderState:
    try:
        _OBJECT.decode(form.fields)
    except (msgspec.MsgspecError, RecursionError):
        raise ValueError("the fields are not the JSON text of an object") from None
    return ProviderState(form.provider, form.kind, form.fields)
