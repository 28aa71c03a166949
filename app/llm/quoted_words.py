"""What an error message says itself, without what it quotes.

A message may repeat a part of the request: a name, a value, a text of the user. Such words say nothing about the account, the
key or the server. But if a gateway quotes the error of the provider behind it, that error is read.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

_MAX_READ = 20_000
_MAX_LITERAL = 4_000
_QUOTED = re.compile(
    r"""
      "(?:\\.|[^"\\])*(?:"|\Z)
    | `[^`]*(?:`|\Z)
    | [\u201c\u201e][^\u201c\u201d]*(?:[\u201c\u201d]|\Z)
    | \u00ab[^\u00bb]*(?:\u00bb|\Z)
    | \u2018(?:[^\u2019]|(?<=\w)\u2019(?=\w))*\u2019
    | (?<!\w)'(?:\\.|[^'\\]|(?<=\w)'(?=\w))*'(?!\w)
    """,
    re.VERBOSE | re.DOTALL,
)
_IN_BRACES = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]")
_QUOTES = "\"'`\u201c\u201e\u201d\u2018\u2019\u00ab\u00bb"
_KEPT = frozenset({"image_url", "max_tokens", "inputs"})
"""Names of the protocol that the table of failures has in quotes."""
_MAX_BRACES = 5
_LOOSE = json.JSONDecoder(strict=False)


def unquoted(message: str) -> str:
    """Returns the message without its quoted parts. If the whole message is one quote, its content is returned."""
    message = message[:_MAX_READ]
    left = _QUOTED.sub(_leave_out, message)
    for _ in range(_MAX_BRACES):
        if (less := _IN_BRACES.sub("", left)) == left:
            break
        left = less
    return left if any(map(str.isalpha, left)) else message.strip().strip(_QUOTES)


def quoted_error(message: str) -> Mapping[str, Any] | None:
    """Returns the first object in the message, written as JSON or in Python's way. None if there is none, or if it is in
    quotes."""
    start = message.find("{")
    if start < 0 or (start and message[start - 1] in _QUOTES):
        return None
    try:
        found = _LOOSE.raw_decode(message, start)[0]
    except (ValueError, RecursionError):
        found = _literal(message[start : message.rfind("}") + 1])
    return found if isinstance(found, Mapping) else None


def _literal(text: str) -> object:
    if len(text) > _MAX_LITERAL:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _leave_out(match: re.Match[str]) -> str:
    return match.group() if match.group().strip(_QUOTES) in _KEPT else " "
