"""Reads a request for embeddings. Lists of tokens, which some clients send by default, are turned back into text."""

from __future__ import annotations

from collections.abc import Callable

from app.costs.estimate import Tokenizer, load_tokenizer
from app.doors.headers import Asked
from app.doors.openai.request import Body, filled, text, whole, wrong
from resolvers.inputs.embeddings import EmbeddingsInput

_FIELDS = frozenset({"input", "model", "dimensions", "encoding_format", "user"})
_FORMATS = ("float", "base64")
_VOCABULARY = 100_256


class TokenTexts:
    """Texts of tokens of cl100k_base, the encoding of OpenAI's embedding models. The vocabulary takes 35 MB and is loaded at the
    first use."""

    def __init__(self) -> None:
        self._tokenizer: Tokenizer | None = None

    def text_of(self, tokens: object) -> str:
        if not isinstance(tokens, list) or not all(type(each) is int and 0 <= each < _VOCABULARY for each in tokens):
            raise wrong("It should be a text, a list of texts, or lists of tokens of the encoding cl100k_base.", "input")
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer("cl100k_base")
        try:
            return self._tokenizer.decode(tokens)
        except ValueError:
            raise wrong("The tokens are no text. Send the text instead.", "input") from None


def read_embeddings(body: Body, asked: Asked, resolve: Callable[[str], str], tokens: TokenTexts) -> tuple[EmbeddingsInput, bool]:
    """Returns the input, and whether vectors are to be in base64. Raises Refused(InvalidInput) with the path of the first
    fault."""
    unknown = next((name for name, value in body.items() if name not in _FIELDS and value is not None), None)
    if unknown is not None:
        raise wrong("There is no such field.", unknown)
    form = body.get("encoding_format") or "float"
    if form not in _FORMATS:
        raise wrong(f"It is none of {', '.join(_FORMATS)}.", "encoding_format")
    found = filled(
        EmbeddingsInput,
        texts=_texts(body.get("input"), tokens),
        model=resolve(text(body, "model")),
        dimensions=whole(body, "dimensions"),
        cache=asked.cache,
        agent=asked.agent,
        labels=asked.labels or None,
        timeout_ms=asked.timeout_ms,
        idempotency_key=asked.idempotency_key,
    )
    return found, form == "base64"


def _texts(value: object, tokens: TokenTexts) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise wrong("It should be a text, a list of texts, or lists of tokens.", "input")
    if all(isinstance(each, str) for each in value):
        return value
    lists = [value] if all(type(each) is int for each in value) else value
    return [tokens.text_of(each) for each in lists]
