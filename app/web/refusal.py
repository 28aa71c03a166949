"""The answer to a request that is refused before the application sees it."""

from __future__ import annotations

import msgspec

from app.web.error_body import error_body, format_error


def refusal(status: str, code: str, message: str) -> bytes:
    """Returns the whole answer. The connection is closed after it."""
    body = msgspec.json.encode(error_body([format_error(code, message)]))
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: {len(body)}"
    return f"{head}\r\nconnection: close\r\n\r\n".encode("ascii") + body
