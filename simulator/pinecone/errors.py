"""The errors of the two planes. Each plane has its own form."""

from __future__ import annotations

import msgspec

_NAMES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "FORBIDDEN", 404: "NOT_FOUND", 409: "ALREADY_EXISTS"}
_CODES = {400: 3, 401: 16, 404: 5, 429: 8, 500: 13, 503: 14}


class Failure(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    def control_body(self) -> bytes:
        error = {"code": _NAMES.get(self.status, "UNKNOWN"), "message": self.message}
        return msgspec.json.encode({"error": error, "status": self.status})

    def data_body(self) -> bytes:
        return msgspec.json.encode({"code": _CODES.get(self.status, 2), "message": self.message, "details": []})


def invalid(message: str) -> Failure:
    return Failure(400, message)
