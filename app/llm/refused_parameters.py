"""Finds the parameter that a server refuses by name, in any form of error.

If a refusal names a parameter whose value GreenLang makes, it is left out: the value cannot be wrong. A parameter that has the
caller's value is left out only if the refusal says that the server does not accept it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from app.domain.errors import FailureKind
from app.llm.failure_table import MAX_WORDS_READ
from app.llm.failures import ErrorWords

_CODES = frozenset({"unsupported_parameter", "unsupported_value", "unknown_parameter"})
_STATUSES = frozenset({400, 422, 501})
_PERHAPS = frozenset({FailureKind.UNSUPPORTED, FailureKind.BAD_REQUEST, FailureKind.UNKNOWN_REFUSAL, FailureKind.NOT_IMPLEMENTED})
_REFUSING = (
    "unsupported",
    "not support",
    "n't support",
    "unrecognized",
    "unrecognised",
    "unknown",
    "unexpected",
    "extra inputs",
    "extra fields",
    "additional propert",
    "not permitted",
    "not allowed",
    "not accept",
    "may not be",
    "incompatible",
    "not available",
    "not implemented",
    "deprecated",
    "cannot find field",
    "please remove",
)
_BOTH = re.compile(r"\btemperature\b.{0,30}\btop_p\b.{0,30}\bboth\b|\bboth\b.{0,30}\btemperature\b.{0,30}\btop_p\b")
_PLAIN = frozenset({"stop", "seed"})
"""Names that are also ordinary words. They count only in quotes or next to a colon."""
_WRAPPERS = ("error", "detail", "errors", "message")
_MAX_DEPTH = 4


EFFORT = "reasoning_effort"
"""Our name for the reasoning effort, in every protocol."""
_EFFORT_WORDS = re.compile(
    r"output_config\.effort|reasoning[._]effort|\beffort (?:level|parameter|value)|['\"`]effort['\"`]|thinking\.type"
)
_NOT_TURNED_OFF = re.compile(r"\bthinking\b.{0,12}\bdisabled\b|\bdisabl\w+ (?:extended )?(?:thinking|reasoning)\b")
"""The effort NONE is refused: the model always reasons."""
_OF_VALUE = (
    "supported values",
    "input should be",
    "must be one of",
    "expected one of",
    "invalid value",
    "unknown variant",
    "level",
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """If `of_value` is true, another value of the parameter may be accepted."""

    parameter: str
    of_value: bool = False


@dataclass(frozen=True)
class Parameters:
    """Parameter names of the protocol. GreenLang makes the values of `own`, so a refusal that names one is enough. The values
    of `asked` are the caller's. Reasoning efforts are always recognised."""

    own: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()

    def and_asked(self, more: frozenset[str]) -> Parameters:
        return replace(self, asked=self.asked | more) if more else self

    def refused(self, kind: FailureKind, status: int, words: ErrorWords, body: object) -> Refusal | None:
        """Returns the parameter that the error refuses; None if it refuses none of these, or has another reason."""
        parameter = self._known(words.parameter)
        said = (words.message or "")[:MAX_WORDS_READ].lower()
        if parameter is not None and kind is FailureKind.UNSUPPORTED and words.code in _CODES:
            return Refusal(parameter, words.code == "unsupported_value" or any(word in said for word in _OF_VALUE))
        if status not in _STATUSES or kind not in _PERHAPS:
            return None
        if "top_p" in self.asked and _BOTH.search(said):
            return Refusal("top_p")
        named = [self._known(found["name"]) for found in self._names.finditer(said)]
        if _NOT_TURNED_OFF.search(said) and any(word in said for word in (*_REFUSING, "cannot be")):
            return Refusal(EFFORT, of_value=True)
        if _EFFORT_WORDS.search(said):
            named.insert(0, EFFORT)
        for name in (parameter, self._known(_location(body)), *named):
            if name is not None and self._is_refused(name, said):
                return Refusal(name, any(word in said for word in _OF_VALUE))
        return None

    def _is_refused(self, name: str, said: str) -> bool:
        if name in self.own or any(word in said for word in _REFUSING):
            return True
        return name == EFFORT and any(word in said for word in _OF_VALUE)

    def _known(self, named: str | None) -> str | None:
        """Maps `body.stream_options` and `stream_options.include_usage` to stream_options, and `reasoning.effort` to
        reasoning_effort."""
        if named is None:
            return None
        parts = named.removeprefix("body.").split(".")
        if parts[-1] in {"effort", EFFORT}:
            return EFFORT
        return next((name for name in (parts[0], parts[-1]) if name in self.own or name in self.asked), None)

    @cached_property
    def _names(self) -> re.Pattern[str]:
        each = [
            rf"(?:(?<=['\"`]){name}(?=['\"`])|^{name}(?=:)|(?<=: ){name}$)" if name in _PLAIN else rf"(?<![\w-]){name}(?![\w-])"
            for name in map(re.escape, sorted(self.own | self.asked, key=len, reverse=True))
        ]
        return re.compile(f"(?P<name>{'|'.join(each) or '(?!)'})")


def _location(body: object) -> str | None:
    """The place of an unknown field in FastAPI's errors: `{"detail": [{"loc": ["body", "seed"], …}]}`."""
    for _ in range(_MAX_DEPTH):
        if isinstance(body, list):
            body = next((item for item in body if isinstance(item, Mapping)), None)
        if not isinstance(body, Mapping):
            return None
        where = body.get("loc")
        if isinstance(where, list):
            return ".".join(str(part) for part in where)
        body = next((body[name] for name in _WRAPPERS if isinstance(body.get(name), (Mapping, list))), None)
    return None
