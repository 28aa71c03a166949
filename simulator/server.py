"""The ASGI application: which provider and operation a path means, who may call it, and the simulator's own endpoints."""

from __future__ import annotations

from typing import Literal, NamedTuple
from urllib.parse import parse_qs

import msgspec

from simulator import anthropic_request, catalogue, openai_refusals
from simulator.anthropic_wire import AnthropicWire
from simulator.attempts import Entry, body_hash, correlating, fingerprint, now
from simulator.connection import Connection, Receive, Scope, Send
from simulator.control import Control
from simulator.exchange import Desk, Exchange, LimitReached
from simulator.faults import Operation
from simulator.models import ProviderName
from simulator.openai_wire import OpenAIWire
from simulator.protocol import Dialect, Rejected

_MAX_BODY_BYTES = 32 * 1024 * 1024
_CONTROL = "/_simulator/"


class _Place(NamedTuple):
    provider: ProviderName
    operation: Operation | Literal["unknown"]


_POSTED = {
    "/v1/messages": _Place("anthropic", "completion"),
    "/v1/messages/count_tokens": _Place("anthropic", "count_tokens"),
    "/v1/chat/completions": _Place("openai", "completion"),
    "/v1/embeddings": _Place("openai", "embedding"),
}


class Simulator:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._control = Control(desk)
        self._wires: dict[ProviderName, Dialect] = {
            "anthropic": AnthropicWire(desk.cache),
            "openai": OpenAIWire(desk.cache),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = Connection(scope, receive, send)
        path: str = scope["path"]
        if path.startswith(_CONTROL):
            await self._control.serve(scope, connection)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        place = _place(path, scope["method"], headers)
        exchange = self._exchange(scope, connection, place, headers)
        try:
            await self._serve(exchange, connection, place, scope, headers)
        except LimitReached as reached:
            await exchange.reject(reached, reached.headers())
        except Rejected as rejected:
            await exchange.reject(rejected)
        finally:
            exchange.ended("aborted")

    def _exchange(self, scope: Scope, connection: Connection, place: _Place, headers: dict[bytes, bytes]) -> Exchange:
        secret = _secret(headers)
        sequence = self._desk.log.next_sequence()
        entry = Entry(
            sequence=sequence,
            at=now(),
            provider=place.provider,
            operation=place.operation,
            path=scope["path"],
            request_id=f"req_{'011C' if place.provider == 'anthropic' else ''}{self._desk.run}{sequence:010d}",
            key=fingerprint(secret) if secret else None,
            headers=correlating(scope["headers"]),
        )
        self._desk.log.opened(entry)
        fault = headers.get(b"x-simulator-fault")
        return Exchange(self._desk, connection, self._wires[place.provider], entry, fault.decode("latin-1") if fault else None)

    async def _serve(
        self, exchange: Exchange, connection: Connection, place: _Place, scope: Scope, headers: dict[bytes, bytes]
    ) -> None:
        raw = await connection.body(_MAX_BODY_BYTES)
        if raw is None:
            raise Rejected(413)
        exchange.entry.body_hash = body_hash(raw)
        _authenticate(place.provider, _secret(headers), headers)
        if place.operation == "completion":
            await exchange.complete(raw, headers.get(b"anthropic-version", b"").decode("latin-1"))
        elif place.operation == "embedding":
            await exchange.embed(raw)
        elif place.operation == "count_tokens":
            tokens = anthropic_request.count(raw)
            await exchange.plain("count_tokens", msgspec.json.encode({"input_tokens": tokens}), "")
        elif place.operation == "models":
            await self._models(exchange, place, scope)
        else:
            raise Rejected(404, f"Invalid URL ({scope['method']} {scope['path']})")

    async def _models(self, exchange: Exchange, place: _Place, scope: Scope) -> None:
        name = scope["path"].partition("/v1/models")[2].strip("/")
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if not name:
            await exchange.plain("models", catalogue.listing(place.provider, query), "")
            return
        known = anthropic_request.known_model if place.provider == "anthropic" else openai_refusals.known_model
        await exchange.plain("models", msgspec.json.encode(catalogue.described(place.provider, known(name))), name)


def _place(path: str, method: str, headers: dict[bytes, bytes]) -> _Place:
    """`/v1/models` without a prefix belongs to Anthropic if the client names a version of its API."""
    prefixed = path.partition("/v1/")[0]
    provider: ProviderName = "anthropic" if prefixed == "/anthropic" or b"anthropic-version" in headers else "openai"
    tail = path[len(prefixed) :]
    if method == "POST":
        return _POSTED.get(tail, _Place(provider, "unknown"))
    if method == "GET" and (tail == "/v1/models" or tail.startswith("/v1/models/")):
        return _Place(provider, "models")
    return _Place(provider, "unknown")


def _secret(headers: dict[bytes, bytes]) -> str:
    plain = headers.get(b"x-api-key") or headers.get(b"api-key")
    if plain is None:
        scheme, _, plain = headers.get(b"authorization", b"").partition(b" ")
        plain = plain if scheme.lower() == b"bearer" else b""
    return plain.decode("latin-1")


def _authenticate(provider: ProviderName, secret: str, headers: dict[bytes, bytes]) -> None:
    if provider == "anthropic":
        if not secret:
            raise Rejected(401, "x-api-key header is required")
        if "refused" in secret:
            raise Rejected(401, "invalid x-api-key")
        if b"anthropic-version" not in headers:
            raise Rejected(400, "anthropic-version: header is required")
        return
    if not secret:
        raise Rejected(
            401, "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth."
        )
    if "refused" in secret:
        shown = f"{secret[:3]}{'*' * 8}{secret[-4:]}"
        raise Rejected(
            401,
            f"Incorrect API key provided: {shown}. You can find your API key at https://platform.openai.com/account/api-keys.",
            code="invalid_api_key",
        )
