"""A value that satisfies a JSON Schema of the simple kind that tools and answer formats use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
else:  # msgspec reads annotations and knows no recursive alias
    Json = Any
Schema: TypeAlias = "dict[str, Json]"

_MAX_DEPTH = 12
_FORMATS = {
    "date": "2026-03-01",
    "date-time": "2026-03-01T12:00:00Z",
    "time": "12:00:00Z",
    "email": "meter@example.com",
    "uri": "https://example.com/meter",
    "uuid": "3f0c8a52-5d1e-4a6b-9c47-2b1d90c1a7e4",
    "ipv4": "192.0.2.1",
    "hostname": "meter.example.com",
    "duration": "PT15M",
}
_WORDS = ("amber", "basalt", "cedar", "delta", "ember", "fjord", "gravel", "harbor")


def instance(schema: Schema, seed: int) -> Json:
    """Returns a value that is valid for `schema`. Considers const, enum, $ref, anyOf/oneOf/allOf, types, bounds and lengths."""
    return _Maker(schema, seed).value(schema, 0)


def wrong_instance(schema: Schema) -> Json:
    """Returns a value of another type than the schema's top level."""
    return ["not", "what", "was", "asked"] if schema.get("type") != "array" else {"not": "what was asked"}


class _Maker:
    def __init__(self, root: Schema, seed: int) -> None:
        self._root = root
        self._seed = seed

    def value(self, schema: Json, depth: int) -> Json:
        if not isinstance(schema, dict):
            return "any"
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        enum = schema.get("enum")
        if isinstance(enum, list) and enum:
            return enum[self._seed % len(enum)]
        return self._of_type(_type_of(schema), schema, depth)

    def _of_type(self, kind: str, schema: Schema, depth: int) -> Json:
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        if kind == "string":
            return self._string(schema)
        if kind == "integer":
            return int(_number(schema, self._seed, whole=True))
        if kind == "number":
            return _number(schema, self._seed, whole=False)
        if kind == "boolean":
            return self._seed % 2 == 0
        return None

    def _object(self, schema: Schema, depth: int) -> Json:
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return {}
        required = schema.get("required")
        names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
        if depth < _MAX_DEPTH:
            names = [*properties] if depth == 0 else (names or [*properties])
        return {name: self.value(properties.get(name), depth + 1) for name in names}

    def _array(self, schema: Schema, depth: int) -> Json:
        least = schema.get("minItems")
        count = least if isinstance(least, int) else 1
        if depth >= _MAX_DEPTH and not isinstance(least, int):
            count = 0
        return [self.value(schema.get("items"), depth + 1) for _ in range(count)]

    def _string(self, schema: Schema) -> str:
        known = schema.get("format")
        if isinstance(known, str) and known in _FORMATS:
            return _FORMATS[known]
        text = _WORDS[self._seed % len(_WORDS)]
        least, most = schema.get("minLength"), schema.get("maxLength")
        if isinstance(least, int):
            text = text.ljust(least, "x")
        return text[:most] if isinstance(most, int) else text

    def _resolved(self, schema: Schema) -> Schema:
        for _ in range(_MAX_DEPTH):
            reference = schema.get("$ref")
            if isinstance(reference, str):
                schema = _pointed(self._root, reference)
                continue
            choices = next((schema[word] for word in ("anyOf", "oneOf") if isinstance(schema.get(word), list)), None)
            if isinstance(choices, list) and choices and isinstance(choices[0], dict):
                schema = choices[0]
                continue
            parts = schema.get("allOf")
            if isinstance(parts, list):
                merged: Schema = {key: value for key, value in schema.items() if key != "allOf"}
                for part in parts:
                    merged.update(self._resolved(part) if isinstance(part, dict) else {})
                return merged
            return schema
        return schema


def _type_of(schema: Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "null")
    if isinstance(kind, str):
        return kind
    return "object" if "properties" in schema else "string"


def _number(schema: Schema, seed: int, *, whole: bool) -> float:
    low, high = schema.get("minimum"), schema.get("maximum")
    over, under = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    value: float = 1 + seed % 40 if whole else 1.5 + seed % 40
    if isinstance(low, int | float):
        value = max(value, low)
    if isinstance(over, int | float):
        value = max(value, over + 1)
    if isinstance(high, int | float):
        value = min(value, high)
    if isinstance(under, int | float):
        value = min(
            value, under - 1 if whole else (under + max(under - 2, low if isinstance(low, int | float) else under - 2)) / 2
        )
    return value


def _pointed(root: Schema, reference: str) -> Schema:
    at: Json = root
    for name in reference.lstrip("#/").split("/"):
        at = at.get(name) if isinstance(at, dict) else None
    return at if isinstance(at, dict) else {}
