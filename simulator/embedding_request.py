"""Requests to OpenAI's Embeddings: what is accepted, what is refused, and how many tokens are counted."""

from __future__ import annotations

from typing import Literal

import msgspec

from simulator.models import FAULT_MARK, Model
from simulator.openai_refusals import decoded, known_model
from simulator.protocol import Rejected
from simulator.text import tokens_of

_MAX_INPUTS = 2048


class EmbeddingBody(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    input: str | list[str | int | list[int]]
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None


class Embedding(msgspec.Struct):
    """`tokens` is the number of tokens of all texts together."""

    model: Model
    texts: list[str]
    dimensions: int
    base64: bool
    tokens: int
    user: str | None
    fault: str | None


_decoder = msgspec.json.Decoder(EmbeddingBody)


def parse(raw: bytes) -> Embedding:
    """Raises Rejected."""
    body = decoded(_decoder, raw)
    model = known_model(body.model)
    if model.dimensions is None:
        raise Rejected(403, f"You are not allowed to generate embeddings from this model: {body.model}")
    texts = _texts(body.input)
    if not texts:
        raise Rejected(
            400, "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference."
        )
    if len(texts) > _MAX_INPUTS:
        raise Rejected(
            400, f"Invalid 'input': array too long. Expected an array with maximum length {_MAX_INPUTS}.", param="input"
        )
    if any(not text for text in texts):
        raise Rejected(400, "Invalid 'input[0]': input cannot be an empty string.", param="input")
    counts = [tokens_of(len(text)) for text in texts]
    if max(counts) > model.context_tokens:
        raise Rejected(
            400,
            f"This model's maximum context length is {model.context_tokens} tokens, however you requested {max(counts)} tokens "
            f"({max(counts)} in your prompt; 0 for the completion). Please reduce your prompt; or completion length.",
        )
    return Embedding(
        model=model,
        texts=texts,
        dimensions=_dimensions(body, model, model.dimensions),
        base64=body.encoding_format == "base64",
        tokens=sum(counts),
        user=body.user,
        fault=body.model.partition(FAULT_MARK)[2] or None,
    )


def _dimensions(body: EmbeddingBody, model: Model, most: int) -> int:
    if body.dimensions is None:
        return most
    if "ada" in model.name:
        raise Rejected(400, "This model does not support specifying dimensions.")
    if not 1 <= body.dimensions <= most:
        raise Rejected(
            400, f"Invalid value for 'dimensions' = {body.dimensions}. Must be between 1 and {most}.", param="dimensions"
        )
    return body.dimensions


def _texts(given: str | list[str | int | list[int]]) -> list[str]:
    """Each token id counts as one token, for which four characters of text are used."""
    if isinstance(given, str):
        return [given]
    ids = [each for each in given if isinstance(each, int)]
    if ids:
        return [_stand_in(ids)]
    return [_stand_in(each) if isinstance(each, list) else str(each) for each in given]


def _stand_in(ids: list[int]) -> str:
    return "".join(f"{token:04d}" for token in ids)
