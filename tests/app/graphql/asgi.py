"""A caller that speaks ASGI to an application in this process, chunk by chunk, as a server would."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

from starlette.types import ASGIApp, Message, Scope

from tests.app.graphql.shop import KEY


@dataclass(slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    read: int = 0

    @property
    def json(self) -> dict[str, object]:
        return cast("dict[str, object]", json.loads(self.body))

    @property
    def data(self) -> dict[str, object]:
        assert "errors" not in self.json, self.json
        return cast("dict[str, object]", self.json["data"])

    @property
    def errors(self) -> list[dict[str, object]]:
        return cast("list[dict[str, object]]", self.json["errors"])

    @property
    def extensions(self) -> dict[str, object]:
        return cast("dict[str, object]", self.errors[0]["extensions"])

    @property
    def code(self) -> object:
        return self.extensions["code"]


@dataclass(slots=True)
class Client:
    app: ASGIApp
    key: str | None = KEY
    accept: str | None = "application/graphql-response+json"
    headers: dict[str, str] = field(default_factory=dict)

    async def post(self, query: str, variables: object = None, **more: object) -> Answer:
        return await self.send_json({"query": query, "variables": variables, **more})

    async def send_json(self, body: object) -> Answer:
        return await self.send(json.dumps(body).encode())

    async def send(
        self, body: bytes | Iterable[bytes] = b"", *, method: str = "POST", query_string: str = "", path: str = "/graphql"
    ) -> Answer:
        chunks = iter([body] if isinstance(body, bytes) else body)
        answer = Answer(0, {}, b"")

        async def receive() -> Message:
            chunk = next(chunks, None)
            answer.read += len(chunk or b"")
            return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                answer.body += message.get("body", b"")

        await self.app(self.scope(method, query_string, path), receive, send)
        return answer

    def scope(self, method: str, query_string: str, path: str) -> Scope:
        headers = {"content-type": "application/json", **self.headers}
        if self.accept is not None:
            headers["accept"] = self.accept
        if self.key is not None:
            headers["authorization"] = f"Bearer {self.key}"
        return {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query_string.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "scheme": "http",
        }
