"""The JSON body of an error answer: `{"errors": [{"message": …, "extensions": {"code": …}}]}`, the form of GraphQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from starlette.responses import JSONResponse

FormattedError: TypeAlias = dict[str, object]


def format_error(code: str, message: str, **extensions: object) -> FormattedError:
    return {"message": message, "extensions": {"code": code, **extensions}}


def error_body(errors: Sequence[FormattedError]) -> dict[str, object]:
    return {"errors": list(errors)}


def error_response(
    status: int,
    code: str,
    message: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    extensions: Mapping[str, object] | None = None,
) -> JSONResponse:
    """Without a message, the code is the message."""
    return JSONResponse(error_body([format_error(code, message or code, **(extensions or {}))]), status, headers)
