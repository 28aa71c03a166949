"""OpenAI's refusals, shared by its operations."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import Raw

from simulator.models import FAULT_MARK, Model, find
from simulator.protocol import Rejected

_T = TypeVar("_T")


def known_model(name: str) -> Model:
    model = find("openai", name.partition(FAULT_MARK)[0])
    if model is None:
        raise Rejected(
            404,
            f"The model `{name}` does not exist or you do not have access to it.",
            kind="invalid_request_error",
            code="model_not_found",
        )
    return model


def too_long(tokens: int, window: int) -> Rejected:
    return Rejected(
        400,
        f"This model's maximum context length is {window} tokens. However, your messages resulted in {tokens} tokens. "
        "Please reduce the length of the messages.",
        code="context_length_exceeded",
        param="messages",
    )


def decoded(decoder: msgspec.json.Decoder[_T], raw: bytes | Raw, top: str = "") -> _T:
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        path = ".".join(part for part in (top, where.strip("`$.")) if part)
        name = what.split("`")[1] if "`" in what else ""
        if "unknown field" in what:
            raise Rejected(400, f"Unknown parameter: '{name}'.", code="unknown_parameter", param=name) from None
        if "missing required field" in what:
            raise Rejected(400, f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name) from None
        raise Rejected(400, f"Invalid type for '{path}': {what}.", code="invalid_type", param=path) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Rejected(
            400,
            "We could not parse the JSON body of your request. "
            "(HINT: This likely means you aren't using your HTTP library correctly. "
            "The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)",
        ) from None
