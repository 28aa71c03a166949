"""What the events of a stream say, read from their bytes by a second reader that knows nothing of the first.

It is slow and simple, and reads only the marks of words, such as «3», in the fields that hold words in either protocol.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_MARK = re.compile(r"«\d+»")
_LOST = re.compile(r'"(?:content|text)"[^«]*«\d+»')
_FIELDS_OF_WORDS = {"choices", "delta", "message", "content", "content_block", "text"}


def marks(text: str) -> list[str]:
    return _MARK.findall(text)


@dataclass
class Meaning:
    """`text` is what came before the end of the answer. `is_ended`: an end came after the last of it. `is_broken`: something in
    the stream says that it failed, or holds words that cannot be read. `is_odd`: words may be of another answer."""

    is_anthropic: bool
    text: str = ""
    is_ended: bool = False
    is_broken: bool = False
    is_odd: bool = False
    has_reason: bool = False
    has_thoughts: bool = False
    has_deltas: bool = False
    is_over: bool = False

    @property
    def words(self) -> list[str]:
        return marks(self.text)

    def read(self, name: str, data: str) -> None:
        if self.is_over:
            return
        if data.strip() == "[DONE]":
            if self.is_ended or not self.is_anthropic:
                self._end(is_terminal=True)
            return
        try:
            event = json.loads(data, strict=False)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            self.is_broken = self.is_broken or _LOST.search(data) is not None or name == "error"
            return
        self.is_broken = self.is_broken or name == "error" or bool(event.get("error"))
        if "I think." in data:
            self.has_thoughts, self.is_ended = True, False
        self._add(self._text_of(event))
        if _gives_reason(event):
            self.has_reason = True
            self._end(is_terminal=False)
        elif self.is_anthropic and event.get("type") == "message_stop":
            self._end(is_terminal=True)

    def _add(self, text: str) -> None:
        self.text += text
        self.is_ended = self.is_ended and not text

    def _end(self, *, is_terminal: bool) -> None:
        self.is_ended = True
        self.is_over = is_terminal and self.has_reason and (self.has_thoughts or bool(self.text))

    def _text_of(self, event: dict[str, Any]) -> str:
        choices = event.get("choices")
        if not isinstance(choices, list):
            return _text_in(event)
        found = ""
        for choice in choices:
            if not isinstance(choice, dict) or _is_other(choice):
                continue
            self.is_odd = self.is_odd or choice.get("index") is False or choice.get("index") != 0
            delta = _text_in({"delta": choice.get("delta")})
            self.has_deltas = self.has_deltas or bool(delta)
            message = "" if delta else self._new_in(_text_in({"message": choice.get("message")}))
            found += delta or message or _text_in({"text": choice.get("text")})
        return found

    def _new_in(self, message: str) -> str:
        """A message repeats what has come if it begins with it."""
        if self.text and message.startswith(self.text):
            return message.removeprefix(self.text)
        if message and self.has_deltas and message.strip() != self.text.strip():
            self.is_broken = True
        return "" if self.has_deltas else message


def _text_in(value: object, name: str = "") -> str:
    if isinstance(value, str):
        return value if name in _FIELDS_OF_WORDS else ""
    if isinstance(value, list):
        return "".join(_text_in(each, name) for each in value)
    if isinstance(value, dict):
        return "".join(_text_in(each, key) for key, each in value.items() if key in _FIELDS_OF_WORDS)
    return ""


def _is_other(choice: dict[str, Any]) -> bool:
    return choice.get("index") == 1 and choice.get("index") is not True


def _gives_reason(event: dict[str, Any]) -> bool:
    delta, choices = event.get("delta"), event.get("choices")
    if isinstance(delta, dict) and isinstance(delta.get("stop_reason"), str) and delta["stop_reason"]:
        return True
    found = [each for each in choices if isinstance(each, dict)] if isinstance(choices, list) else []
    return any(isinstance(each.get("finish_reason"), str) and each["finish_reason"] and not _is_other(each) for each in found)


def meaning_of(body: bytes, *, is_anthropic: bool, is_cut: bool) -> Meaning:
    """By the letter of the standard for event streams. A last event without its empty line counts, unless the body was cut."""
    text = body.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    found, data, name = Meaning(is_anthropic), list[str](), ""
    lines = text.split("\n")
    for line in lines[:-1] if is_cut else [*lines, ""]:
        field_name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line and field_name == "data":
            data.append(value)
        elif line and field_name == "event":
            name = value
        elif not line:
            if data:
                found.read(name, "\n".join(data))
            data, name = [], ""
    return found
