"""Checks answers in JSON against their schema, whatever the provider promises.

Schema and answer both come from outside, so a check must end. References stay inside the schema and are followed a bounded
number of times. A pattern that could take too long on a text is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from app.llm.messages import JsonSchemaFormat, ResponseFormat
from app.llm.providers.unsupported import refuse

_PATH = ("responseFormat", "jsonSchema", "schema")
_MAX_REFERENCES = 10_000
_KEPT = 64
_REPEATS = "*+{"
_INTERESTING: dict[object, type] = {"$ref": str, "$dynamicRef": str, "patternProperties": dict}
_MAX_TEXT_LENGTH = {0: 100_000, 1: 4096, 2: 256, 3: 256}
_OBJECT = msgspec.json.Decoder(dict[str, Any])
_ANY = msgspec.json.Decoder(Any)


class SchemaChecks:
    """Keeps the most recent compiled schemas, because agents use the same schema again and again."""

    def __init__(self) -> None:
        self._known: dict[bytes, Draft202012Validator] = {}

    def __len__(self) -> int:
        """How many schemas are kept."""
        return len(self._known)

    def prepare(self, wanted: ResponseFormat | None) -> AnswerCheck | None:
        """Raises Refused(InvalidInput) if the schema is not valid or refers to another document."""
        if wanted is None:
            return None
        if not isinstance(wanted, JsonSchemaFormat):
            return AnswerCheck(None)
        name = msgspec.json.encode(wanted.schema)
        validator = self._known.pop(name, None) or _compile(wanted.schema)
        if len(self._known) >= _KEPT:
            del self._known[next(iter(self._known))]
        self._known[name] = validator
        return AnswerCheck(validator)


class AnswerCheck:
    """`validator` is None if any JSON object is allowed."""

    def __init__(self, validator: Draft202012Validator | None) -> None:
        self._validator = validator

    def accepts(self, text: str) -> bool:
        try:
            value = (_OBJECT if self._validator is None else _ANY).decode(text)
            return self._validator is None or _Budgeted(self._validator).accepts(value)
        except (msgspec.MsgspecError, RecursionError, ArithmeticError, Unresolvable):
            return False


class _OutOfBudget(ArithmeticError):
    pass


class _Budgeted:
    """One check of one value. The number of references that it follows is limited."""

    def __init__(self, validator: Draft202012Validator) -> None:
        self._left = _MAX_REFERENCES
        self._schema = validator.schema
        self._class = extend(  # type: ignore[no-untyped-call]  # the stubs leave it untyped
            Draft202012Validator,
            {"$ref": self._counted("$ref"), "$dynamicRef": self._counted("$dynamicRef"), "pattern": _pattern},
        )

    def accepts(self, value: object) -> bool:
        return bool(self._class(self._schema, registry=Registry()).is_valid(value))

    def _counted(self, keyword: str) -> Any:
        follow = Draft202012Validator.VALIDATORS[keyword]

        def counted(validator: Any, reference: Any, instance: Any, schema: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                raise _OutOfBudget
            return follow(validator, reference, instance, schema)

        return counted


def _compile(schema: Mapping[str, Any]) -> Draft202012Validator:
    try:
        Draft202012Validator.check_schema(schema)
        resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
        for keyword, value in _keywords(schema):
            if keyword in {"$ref", "$dynamicRef"}:
                resolver.lookup(value)
            elif keyword == "patternProperties" and any(_unbounded(pattern) is None for pattern in value):
                raise refuse("patternProperties holds a pattern that could take too long to check.", _PATH)
    except SchemaError:
        raise refuse("This is not a JSON Schema (draft 2020-12).", _PATH) from None
    except (Unresolvable, RecursionError):
        raise refuse("A reference in the schema has no target inside the schema.", _PATH) from None
    return Draft202012Validator(schema, registry=Registry())


def _keywords(value: object) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, _INTERESTING.get(key, ())):
                yield key, inner
            yield from _keywords(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keywords(inner)


def _pattern(validator: Any, pattern: str, instance: object, _schema: object) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "string"):
        return
    assert isinstance(instance, str)
    repeats = _unbounded(pattern)
    if repeats is None or len(instance) > _MAX_TEXT_LENGTH[repeats]:
        return
    if not re.search(pattern, instance):
        yield ValidationError("the text does not match the pattern")


def _unbounded(pattern: str) -> int | None:
    """The number of repeats in a pattern. None if they are nested or too many, so that a search may not end soon."""
    bare = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", pattern, flags=re.DOTALL)
    inside = [0]
    for index, char in enumerate(bare):
        if char == "(":
            inside.append(0)
        elif char == "|" or char in _REPEATS:
            inside[-1] += 1
        elif char == ")" and len(inside) > 1:
            count = inside.pop()
            if count and bare[index + 1 : index + 2] in set(_REPEATS):
                return None
            inside[-1] += count
    return inside[0] if len(inside) == 1 and inside[0] in _MAX_TEXT_LENGTH else None
