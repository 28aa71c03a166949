"""What a model writes when it answers from passages: statements, each with the quotes that it rests on. Nothing here is checked
yet: a quote may be false, and a passage may not exist.

The passages themselves are kept by reference only. A completion never repeats their texts, and its text is that of the
statements, without the quotes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec

from app.llm.messages import Json, JsonSchemaFormat


@dataclass(frozen=True, slots=True)
class PassageReference:
    """A chunk that the model was given, and its score in the search that found it."""

    chunk: UUID
    score: float


@dataclass(frozen=True, slots=True)
class Grounding:
    """`asked` is the hash of what the caller asked. It stands for the messages in the hash of an idempotency key, because a
    repeat may find other passages. The first of `passages` is P1 for the model."""

    asked: bytes
    passages: tuple[PassageReference, ...] = ()


@dataclass(frozen=True, slots=True)
class Quote:
    passage: str
    quote: str


@dataclass(frozen=True, slots=True)
class Statement:
    text: str
    quotes: tuple[Quote, ...]


@dataclass(frozen=True, slots=True)
class _Statements:
    statements: tuple[Statement, ...]


_DECODER = msgspec.json.Decoder(_Statements)


def passage_name(position: int) -> str:
    return f"P{position + 1}"


def read_statements(text: str | None) -> tuple[Statement, ...]:
    """Returns nothing if the text is not whole, or not of this form."""
    try:
        return _DECODER.decode(text or "").statements
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeEncodeError):
        return ()


def plain_text(statements: Sequence[Statement]) -> str:
    return " ".join(statement.text.strip() for statement in statements)


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _list(of: Json, description: str) -> Json:
    return {"type": "array", "items": of, "description": description}


def _text(description: str) -> Json:
    return {"type": "string", "description": description}


_QUOTE: Final = _object(
    passage=_text("The name of the passage, such as P1."),
    quote=_text("Words of this passage, copied exactly: one piece, whole words, at least 12 characters."),
)
_STATEMENT: Final = _object(
    text=_text("One sentence of the answer."),
    quotes=_list(_QUOTE, "The quotes from which the sentence follows. At least one."),
)
_SCHEMA: Final[Mapping[str, Json]] = {
    "type": "object",
    "properties": {"statements": _list(_STATEMENT, "The answer, in order. Empty if the passages do not answer the question.")},
    "required": ["statements"],
    "additionalProperties": False,
}
STATEMENTS_FORMAT: Final = JsonSchemaFormat("answer", _SCHEMA)
