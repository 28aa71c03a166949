"""Ids and names of tool calls that another provider, or its model, made for an API that accepts only some of them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

from app.llm.messages import Message, ModelCall, ToolCall
from app.llm.providers.unsupported import Notes

CHANGED_NAME = "The name of a tool call was changed: the provider takes only letters, digits, _ and -."
_UNFIT = re.compile(r"[^a-zA-Z0-9_-]")
_DIGEST_LENGTH = 24


@dataclass(frozen=True, slots=True)
class CallNames:
    """`prefix` begins the API's own ids. Lengths are in characters."""

    prefix: str
    max_id_length: int
    max_name_length: int

    def fit(self, call: ModelCall, notes: Notes) -> ModelCall:
        """Returns the call with ids and names that the API accepts. A result still has the id of its tool call."""
        return replace(call, messages=tuple(self._message(message, notes) for message in call.messages))

    def _message(self, message: Message, notes: Notes) -> Message:
        result = message.tool_result
        if result is not None and not self._is_fit(result.id):
            return replace(message, tool_result=replace(result, id=self._id(result.id)))
        if any(not self._is_fit(made.id) or self._name(made) != made.name for made in message.tool_calls):
            return replace(message, tool_calls=tuple(self._tool_call(made, notes) for made in message.tool_calls))
        return message

    def _tool_call(self, made: ToolCall, notes: Notes) -> ToolCall:
        name = self._name(made)
        if name != made.name:
            notes.add(CHANGED_NAME)
        return replace(made, id=made.id if self._is_fit(made.id) else self._id(made.id), name=name)

    def _is_fit(self, call_id: str) -> bool:
        return len(call_id) <= self.max_id_length and not _UNFIT.search(call_id)

    def _id(self, call_id: str) -> str:
        return self.prefix + hashlib.sha256(call_id.encode()).hexdigest()[:_DIGEST_LENGTH]

    def _name(self, made: ToolCall) -> str:
        return _UNFIT.sub("_", made.name)[: self.max_name_length]
