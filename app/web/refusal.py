"""The answer to what is refused before the application hears of it."""

from __future__ import annotations

import msgspec

from app.web.error_body import error_body, format_error


def refusal(status: str, code: str, message: str) -> bytes:
    """The whole answer, after which the connection is closed."""
    body = msgspec.json.encode(error_body([format_error(code, message)]))
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: {len(body)}"
    return f"{head}\r\nconnection: close\r\n\r\n".encode("ascii") + body
