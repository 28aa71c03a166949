"""The paths of OpenAI's API."""

from __future__ import annotations

from functools import partial

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.doors.entrance import Answer, Entrance
from app.doors.failures import DoorFailed, Failure
from app.doors.headers import answer_headers, asked_in
from app.doors.models import kinds_of, resolve_model
from app.doors.openai.embeddings import TokenTexts, read_embeddings
from app.doors.openai.request import read_chat
from app.doors.openai.response import chat_completion, embeddings_list, error_body, models_list
from app.doors.openai.stream import PING, ChatStream, error_piece
from app.doors.sse import EventSender
from app.graphql.body import BodyReader
from app.graphql.http import Header, HeaderView
from app.graphql.operations import Operations
from app.services import Services
from app.web.misuse import Door
from app.web.request_ids import request_id_of

_PATHS = "POST /v1/chat/completions, POST /v1/embeddings, GET /v1/models, GET /v1/models/{id}"


class OpenAIDoor:
    def __init__(self, services: Services, operations: Operations) -> None:
        self._services = services
        bodies = BodyReader(operations.limits.body_bytes, operations.limits.send_timeout)
        self._entrance = Entrance(operations, bodies, Door.OPENAI)
        self._tokens = TokenTexts()
        self._resolve = partial(resolve_model, fleet=services.fleet)
        self._kinds = partial(kinds_of, fleet=services.fleet)

    async def chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._entrance.answer(scope, send, partial(self._chat, scope, receive), error_body)

    async def embeddings(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._entrance.answer(scope, send, partial(self._embed, scope, receive), error_body)

    async def models(self, scope: Scope, _receive: Receive, send: Send) -> None:
        await self._entrance.answer(scope, send, partial(self._models, scope), error_body)

    async def nothing_here(self, scope: Scope, _receive: Receive, send: Send) -> None:
        await self._entrance.answer(scope, send, partial(self._unknown, scope), error_body)

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> Answer | None:
        headers = HeaderView(scope["headers"])
        gateway = self._services.gateway
        async with self._entrance.call(scope, headers, receive) as (principal, body):
            asked = read_chat(body, asked_in(headers), self._resolve, self._kinds)
            request = await asked.input.read()
            if not asked.streamed:
                completion = await gateway.complete(request, principal)
                return Answer(chat_completion(completion, asked.model), answer_headers(completion, asked.notes))
            noted: list[Header] = [(b"x-greenlang-notes", "; ".join(asked.notes).encode())] if asked.notes else []
            sender = EventSender(receive, send, noted, PING)
            stream = ChatStream(asked, int(self._services.clock.now().timestamp()))
            events = gateway.stream(request, principal)
            await sender.run(stream.pieces(events), partial(error_piece, request_id_of(scope)))
            return None

    async def _embed(self, scope: Scope, receive: Receive, _send: Send) -> Answer:
        headers = HeaderView(scope["headers"])
        async with self._entrance.call(scope, headers, receive) as (principal, body):
            asked, as_base64 = read_embeddings(body, asked_in(headers), self._resolve, self._tokens)
            found = await self._services.gateway.embed(asked.to_domain(), principal)
        return Answer(embeddings_list(found, as_base64=as_base64), [(b"x-greenlang-provider", found.provider.encode())])

    async def _models(self, scope: Scope, _send: Send) -> Answer:
        await self._entrance.principal(scope, HeaderView(scope["headers"]))
        found, name = models_list(self._services.fleet), scope["path_params"].get("name")
        if name is None:
            return Answer(found, [])
        models = [each for each in found["data"] if each["id"] == name]  # type: ignore[attr-defined]  # a list of objects
        if not models:
            raise DoorFailed(Failure(404, "invalid_request_error", "model_not_found", f"There is no model {name!r}.", "model"))
        return Answer(models[0], [])

    async def _unknown(self, scope: Scope, _send: Send) -> Answer:
        await self._entrance.principal(scope, HeaderView(scope["headers"]))
        message = f"There is nothing at {scope['method']} {scope['path'][:200]}. There are {_PATHS}."
        raise DoorFailed(Failure(404, "invalid_request_error", "not_found", message))


def build_openai_routes(services: Services, operations: Operations) -> list[BaseRoute]:
    door = OpenAIDoor(services, operations)
    return [
        _route("/v1/chat/completions", door.chat, "POST"),
        _route("/v1/embeddings", door.embeddings, "POST"),
        _route("/v1/models", door.models, "GET"),
        _route("/v1/models/{name:path}", door.models, "GET"),
        Route("/v1/{path:path}", _App(door.nothing_here), methods=None),
    ]


class _App:
    """Starlette takes a function for one of its endpoints, and anything else for an application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _route(path: str, app: ASGIApp, method: str) -> Route:
    return Route(path, _App(app), methods=[method])
