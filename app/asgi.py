"""The Starlette application: routes, middleware, lifespan. Uvicorn's target is `create_app(settings)`."""

from __future__ import annotations

import os
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest, start_http_server
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Send
from starlette.types import Scope as ConnectionScope

from app.access.allowance import Allowance
from app.access.principal import Principal, Scope
from app.context import OperationContext
from app.costs.estimate import Estimator
from app.costs.export_endpoint import build_export_routes
from app.costs.prices import PriceBook
from app.db.own_writes import CALLER, Caller
from app.domain.errors import Forbidden, Overloaded, SettingsError, StoreUnavailable, Unauthenticated
from app.doors.openai.routes import build_openai_routes
from app.embedded.stores import has_private_store
from app.graphql.operations import holder_of
from app.graphql.routes import build_graphql_routes, build_operations
from app.health.endpoints import build_health_routes
from app.loaders import Loaders
from app.runtime.clock import SystemClock
from app.runtime.lifespan_state import DRAIN, METRICS
from app.runtime.tasks import count_tasks
from app.services import Services, build_services
from app.settings import ServerSettings, Settings
from app.web.access_log import STATE as REQUEST_METRICS
from app.web.access_log import AccessLog, RequestMetrics
from app.web.bearer import bearer_token
from app.web.capacity import Capacity, Shares
from app.web.client_address import TrustedProxies
from app.web.connection_places import STATE as CONNECTION_PLACES
from app.web.connection_places import ConnectionPlaces, limits_of
from app.web.error_body import error_response
from app.web.misuse import Door, Misuse, Origin
from app.web.protocols import KNOWN, extension
from app.web.request_ids import RequestIds
from app.web.security import SecurityHeaders
from app.web.unauthenticated import STATE as UNAUTHENTICATED_CONNECTIONS
from app.web.unauthenticated import UnauthenticatedConnections
from schema.build import build_schema

_METHOD_NOT_ALLOWED = 405
_NOT_FOUND = 404
_SECRET_BYTES = 32
_NOTHING_HERE = "there is nothing at this path; the API is at /graphql"

Authenticate = Callable[[Mapping[str, str]], Awaitable[Principal]]


def create_app(settings: Settings) -> Starlette:
    """Builds the application. Heavy parts are built here, before server processes fork. Connections are opened in each
    process."""
    schema, estimator, prices = build_schema(), Estimator(), PriceBook(settings)
    stream_secret = os.urandom(_SECRET_BYTES) if has_private_store(settings) else b""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, object]]:
        """Gives the server what it informs when the process is asked to stop, the metrics, and the limits of its
        connections."""
        async with build_services(settings, SystemClock(), estimator, prices, stream_secret=stream_secret) as services:
            count_tasks(services.metrics)
            app.router.routes.extend(_routes(services))
            with _metrics_port(services.metrics, settings.server):
                yield {
                    DRAIN: services.drain,
                    METRICS: services.metrics,
                    REQUEST_METRICS: RequestMetrics(services.metrics),
                    **_connections(settings.server),
                }

    def _routes(services: Services) -> list[BaseRoute]:
        async def authenticate(headers: Mapping[str, str]) -> Principal:
            return await services.keys.authenticate(bearer_token(headers))

        def make_context(principal: Principal, request_id: str, allowance: Allowance) -> OperationContext:
            CALLER.set(Caller(str(principal.key_id), principal.may_write))
            return OperationContext(services, principal, Loaders(services, principal), request_id, services.clock, allowance)

        operations = build_operations(
            schema,
            settings=settings,
            authenticate=authenticate,
            make_context=make_context,
            clock=services.clock,
            offload=services.offload,
            misuse=services.misuse,
            drain=services.drain,
        )
        operations.show(services.watch)
        simulated = any(provider.simulated for provider in settings.providers)
        return [
            *build_health_routes(services.health),
            *build_export_routes(services.exports, services.misuse, settings),
            _metrics_route(services.metrics, authenticate, services.misuse),
            *build_graphql_routes(schema, operations, settings.server, simulated=simulated),
            *build_openai_routes(services, operations),
        ]

    app = Starlette(
        lifespan=lifespan, middleware=_middleware(settings.server), exception_handlers={HTTPException: _no_such_route}
    )
    app.router.redirect_slashes = False
    app.router.default = _nothing_here
    return app


def _connections(server: ServerSettings) -> dict[str, object]:
    """The limits of the server's connections. They keep the process below its maximum of open files."""
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limited = None if open_files == resource.RLIM_INFINITY else open_files
    unauthenticated, authenticated = limits_of(limited, server.unauthenticated_connections)
    is_proxy = TrustedProxies(server.trusted_proxies).trusts
    shares = Shares(server.share_per_key, server.share_per_tenant, server.share_for_admin)
    return {
        UNAUTHENTICATED_CONNECTIONS: UnauthenticatedConnections(
            unauthenticated, server.unauthenticated_connections_per_address, is_proxy=is_proxy
        ),
        CONNECTION_PLACES: ConnectionPlaces(Capacity(authenticated, server.retry_after, shares)),
    }


def _middleware(server: ServerSettings) -> list[Middleware]:
    behind_tls = (server.public_url or "").startswith("https://")
    is_https = _always if behind_tls else TrustedProxies(server.trusted_proxies).is_https
    security = Middleware(SecurityHeaders, is_https, include_subdomains=server.hsts_include_subdomains)
    found = [Middleware(RequestIds), Middleware(AccessLog, SystemClock(), is_logged=server.access_log), security]
    if server.allowed_origins:
        found.append(
            Middleware(
                CORSMiddleware,
                allow_origins=server.allowed_origins,
                allow_methods=("GET", "POST"),
                allow_headers=("authorization", "content-type", "x-request-id"),
                expose_headers=("x-request-id", "retry-after"),
                max_age=600,
            )
        )
    return found


def _always(_scope: ConnectionScope) -> bool:
    return True


@contextmanager
def _metrics_port(metrics: CollectorRegistry, server: ServerSettings) -> Iterator[None]:
    """The metrics without a key, on a separate port. Several server processes use consecutive free ports."""
    if server.metrics_port is None:
        yield
        return
    for port in range(server.metrics_port, server.metrics_port + server.workers):
        with suppress(OSError):
            exposed, thread = start_http_server(port, server.host, metrics)
            break
    else:
        raise SettingsError("server.metrics_port", f"port {server.metrics_port} on {server.host} is taken by another program")
    try:
        yield
    finally:
        exposed.shutdown()
        exposed.server_close()
        thread.join()


def _metrics_route(metrics: CollectorRegistry, authenticate: Authenticate, misuse: Misuse) -> Route:
    """Needs a key with ADMIN. A scraper without a key uses a separate port (`server.metrics_port`)."""

    async def expose(request: Request) -> Response:
        try:
            principal = await authenticate(request.headers)
            extension(request.scope, KNOWN)(holder_of(principal))
        except Unauthenticated as error:
            misuse.note(error, Origin(Door.METRICS, request.scope))
            return error_response(401, "UNAUTHENTICATED", headers={"WWW-Authenticate": "Bearer"})
        except StoreUnavailable:
            return error_response(503, "STORE_UNAVAILABLE")
        except Overloaded:
            return error_response(503, "OVERLOADED")
        if not principal.may(Scope.ADMIN):
            misuse.note(Forbidden(), Origin(Door.METRICS, request.scope), principal.hint)
            return error_response(403, "FORBIDDEN")
        return Response(generate_latest(metrics), headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"})

    return Route("/metrics", expose)


async def _nothing_here(scope: ConnectionScope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        raise HTTPException(_NOT_FOUND)
    await receive()
    await error_response(_NOT_FOUND, "BAD_USER_INPUT", _NOTHING_HERE)(scope, receive, send)


def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == _METHOD_NOT_ALLOWED:
        message = f"{request.method} is not allowed here"
        return error_response(error.status_code, "METHOD_NOT_ALLOWED", message, headers=error.headers)
    return error_response(error.status_code, "BAD_USER_INPUT", _NOTHING_HERE, headers=error.headers)
