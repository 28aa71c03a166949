"""Answers that quote the passages of their prompt.

A schema asks for them if its `statements` have `quotes`. The first line of the user's text ends with the mark that the lines
around passages bear. A marker in the question makes quotes wrong: false ones, ones of another passage, stitched or short ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from simulator.structured import Json, Schema
from simulator.text import prose

Quotes: TypeAlias = Literal["true", "false", "misattributed", "stitched", "short", "mixed"]
_MIXED: tuple[Quotes, ...] = ("true", "false", "misattributed", "stitched", "short")
_MARK = re.compile(r"[^\n]*\b([0-9a-f]{16})\.?\n")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n\s*\n")
_STATEMENTS = 2
_MIN_LENGTH = 12
_FALSE_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Passage:
    id: str
    text: str


def asks_for_quotes(schema: Schema) -> bool:
    at: Json = schema
    for name in ("properties", "statements", "items", "properties"):
        at = at.get(name) if isinstance(at, dict) else None
    return isinstance(at, dict) and "quotes" in at


def passages(prompt: str) -> tuple[list[Passage], str]:
    """Returns the passages, and the prompt without them: what the user says in their own words."""
    mark = _MARK.match(prompt)
    if mark is None:
        return [], prompt
    fenced = re.compile(rf"\[passage (\S+) {mark[1]}\]\n(.*?)\n\[end of passage \1 {mark[1]}\]\n", re.DOTALL)
    return [Passage(found[1], found[2]) for found in fenced.finditer(prompt)], fenced.sub("", prompt)


def quoting_answer(prompt: str, seed: int, quotes: Quotes) -> Json:
    """Returns statements. Each is a sentence of a passage and quotes it, or what stands for it."""
    given, question = passages(prompt)
    words = set(re.findall(r"\w+", question.lower()))
    if quotes != "mixed":
        return {"statements": [_statement(place, given, words, seed, quotes) for place in range(len(given[:_STATEMENTS]))]}
    kinds = _MIXED if given else ()
    return {"statements": [_statement(place % len(given), given, words, seed, kind) for place, kind in enumerate(kinds)]}


def _statement(place: int, given: Sequence[Passage], words: set[str], seed: int, quotes: Quotes) -> Json:
    passage, other = given[place], given[(place + 1) % len(given)]
    sentence = _nearest(passage.text, words)
    if quotes == "true":
        quote = sentence
    elif quotes == "misattributed" and other.text != passage.text:
        quote = _nearest(other.text, words)
    elif quotes == "stitched":
        quote = _stitched(passage.text)
    elif quotes == "short":
        quote = sentence[: _MIN_LENGTH - 2]
    else:
        quote = prose(seed + place, _FALSE_TOKENS)
    return {"text": sentence, "quotes": [{"passage": passage.id, "quote": quote}]}


def _nearest(text: str, words: set[str]) -> str:
    """The sentence with the most words of the question, its white space in single spaces."""
    sentences = [" ".join(sentence.split()) for sentence in _SENTENCE.split(text)]
    long = [sentence for sentence in sentences if len(sentence) >= _MIN_LENGTH]
    if not long:
        return " ".join(text.split())
    return max(long, key=lambda sentence: len(words & set(re.findall(r"\w+", sentence.lower()))))


def _stitched(text: str) -> str:
    """The beginning and the end of the text as if they were one sentence."""
    words = text.split()
    half = max(1, len(words) // 3)
    return " ".join(words[:half] + words[-half:])
