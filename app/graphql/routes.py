"""The GraphQL routes, for the application to mount: operations, the console's files, the SDL."""

from __future__ import annotations

from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from strawberry import Schema

from app.access.principal import Scope as AccessScope
from app.domain.errors import Forbidden, GreenLangError
from app.graphql.accept import MediaType
from app.graphql.body import BodyParser, BodyReader
from app.graphql.broadcast import Broadcasts
from app.graphql.connections import Authenticate, Connections
from app.graphql.console import ConsoleFile, ConsolePage
from app.graphql.engine import Engine, MakeContext
from app.graphql.errors import failed_by
from app.graphql.http import GraphQLEndpoint, HeaderView, send_json
from app.graphql.operations import Operations
from app.graphql.websocket import WebSocketEndpoint
from app.runtime.clock import Clock
from app.runtime.drain import Drain
from app.runtime.offload import Offload
from app.settings import ServerSettings, Settings
from app.web.capacity import Capacity, Shares
from app.web.memory import BodyCapacity
from app.web.misuse import Door, Misuse, Origin
from app.web.request_ids import request_id_of

PATH = "/graphql"


class SchemaDocument:
    """The SDL: for every caller; in production only for keys that may introspect."""

    def __init__(self, sdl: str, authenticate: Authenticate, misuse: Misuse, *, production: bool) -> None:
        self._sdl = sdl
        self._authenticate = authenticate
        self._misuse = misuse
        self._production = production

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._production:
            hint = None
            try:
                principal = await self._authenticate(HeaderView(scope["headers"]))
                hint = principal.hint
                if AccessScope.ADMIN not in principal.scopes:
                    raise Forbidden("the schema needs the scope ADMIN here")
            except GreenLangError as error:
                self._misuse.note(error, Origin(Door.SCHEMA, scope), hint)
                failed = failed_by(error, request_id_of(scope))
                await send_json(send, failed.status, failed.payload, MediaType.JSON, failed.headers)
                return
        response = PlainTextResponse(self._sdl, headers={"cache-control": "no-cache"})
        await response(scope, receive, send)


def build_operations(
    schema: Schema,
    *,
    settings: Settings,
    authenticate: Authenticate,
    make_context: MakeContext,
    clock: Clock,
    offload: Offload,
    misuse: Misuse,
    drain: Drain,
) -> Operations:
    """`authenticate` takes the request's headers by lower-case name and raises Unauthenticated or StoreUnavailable.
    `make_context` is called once per operation and once per event, and must not block."""
    limits, server = settings.limits, settings.server
    places, retry_after = server.max_in_flight, server.retry_after
    shares = Shares(server.share_per_key, server.share_per_tenant, server.share_for_admin)
    engine = Engine(schema, settings, make_context, clock=clock, offload=offload, misuse=misuse)
    connections = Connections(authenticate, clock, per_key=limits.sockets_per_key, send_timeout=limits.send_timeout)
    drain.on_close(connections.end_all)
    return Operations(
        engine,
        authenticate,
        connections,
        Broadcasts(engine, offload),
        Capacity(places, retry_after, shares),
        Capacity(places, retry_after, shares),
        BodyCapacity(limits.bytes_in_flight, retry_after, clock, shares=shares, largest=limits.body_bytes),
        BodyParser(limits.document_bytes, offload),
        offload,
        limits,
        clock,
        misuse,
    )


def build_graphql_routes(
    schema: Schema, operations: Operations, server: ServerSettings, *, simulated: bool = False
) -> list[BaseRoute]:
    bodies = BodyReader(operations.limits.body_bytes, operations.limits.send_timeout)
    sdl = SchemaDocument(schema.as_str(), operations.authenticate, operations.misuse, production=server.production)
    console = None if server.production else ConsolePage(simulated=simulated)
    return [
        Route(PATH, GraphQLEndpoint(operations, bodies, console), methods=None),
        WebSocketRoute(PATH, WebSocketEndpoint(operations, server.allowed_origins)),
        _get("/schema.graphql", sdl),
        *(() if console is None else _console_files()),
    ]


def _console_files() -> list[Route]:
    return [
        _get("/console.css", ConsoleFile("console.css", "text/css")),
        _get("/console.js", ConsoleFile("console.js", "text/javascript")),
        _get("/console.svg", ConsoleFile("console.svg", "image/svg+xml")),
    ]


def _get(path: str, app: ASGIApp) -> Route:
    return Route(PATH + path, app, methods=["GET"])
