"""The answer to what is refused before the application hears of it."""

from __future__ import annotations


def refusal(status: str, code: str, message: str) -> bytes:
    """The whole answer, after which the connection is closed."""
    body = f'{{"errors":[{{"message":"{message}","extensions":{{"code":"{code}"}}}}]}}'
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: {len(body)}"
    return f"{head}\r\nconnection: close\r\n\r\n{body}".encode("ascii")
