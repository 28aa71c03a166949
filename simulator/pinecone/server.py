"""The ASGI application: which request goes to which plane, who may call it, and the simulator's own endpoints.

The own endpoints are under `/_simulator/`: `fault` makes requests fail, `visibility` delays or holds what was written, `log`
lists the requests, `state` shows what can be read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs, unquote

import msgspec

from simulator.connection import Connection, Receive, Scope, Send
from simulator.pinecone.errors import Failure
from simulator.pinecone.indexes import Indexes
from simulator.pinecone.operations import MAX_REQUEST_BYTES, OPERATIONS, one_namespace
from simulator.pinecone.records import Visibility

_CONTROL = "/_simulator/"
_MAX_LOGGED = 50_000


class Entry(msgspec.Struct):
    """One request. `namespace` is what its body or its query names."""

    method: str
    path: str
    namespace: str
    status: int


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """What the next `count` requests get whose path contains `path`: after `delay_ms`, `status` if it is not 0, or silence. If
    `count` is null, it does not end."""

    status: int = 0
    silent: bool = False
    delay_ms: float = 0.0
    path: str = ""
    count: int | None = 1


class _Named(msgspec.Struct):
    namespace: str = ""


class PineconeSimulator:
    def __init__(self, address: str, clock: Callable[[], float], visibility: Visibility, ready_after_ms: float) -> None:
        self._indexes = Indexes(address, clock, visibility, ready_after_ms)
        self._visibility = visibility
        self._fault: Fault | None = None
        self._log: deque[Entry] = deque(maxlen=_MAX_LOGGED)
        self._controls: Mapping[tuple[str, str], Callable[[bytes], object]] = {
            ("PUT", "fault"): self._set_fault,
            ("DELETE", "fault"): self._clear_fault,
            ("PUT", "visibility"): self._set_visibility,
            ("GET", "log"): lambda _body: list(self._log),
            ("DELETE", "log"): self._clear_log,
            ("GET", "state"): lambda _body: self._state(),
            ("DELETE", "state"): self._clear_state,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = Connection(scope, receive, send)
        body = await connection.body(8 * MAX_REQUEST_BYTES) or b""
        path: str = scope["raw_path"].decode("latin-1").partition("?")[0]
        if path.startswith(_CONTROL):
            status, answer = self._controlled(scope["method"], path.removeprefix(_CONTROL), body)
        else:
            status, answer = await self._served(scope, connection, path, body)
        if status:
            await connection.start(status, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))])
            await connection.write(answer, more=False)

    async def _served(self, scope: Scope, connection: Connection, path: str, body: bytes) -> tuple[int, bytes]:
        """Status 0: the client left without an answer."""
        entry = Entry(scope["method"], path, _namespace(scope, body), 0)
        self._log.append(entry)
        fault = self._due_fault(path)
        if fault is not None:
            if fault.silent:
                await connection.left()
                return 0, b""
            await connection.pause(fault.delay_ms / 1000)
        is_data = path.startswith("/hosts/")
        try:
            if fault is not None and fault.status:
                raise Failure(fault.status, "the simulator was asked to fail")
            _authenticate(dict(scope["headers"]))
            status, answer = self._data(scope, path, body) if is_data else self._control(scope["method"], path, body)
        except Failure as failure:
            status, answer = failure.status, failure.data_body() if is_data else failure.control_body()
        entry.status = status
        return status, answer

    def _control(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        head, _, name = path.strip("/").partition("/")
        name = unquote(name)
        if head == "indexes" and not name and method == "POST":
            return 201, msgspec.json.encode(self._indexes.create(body))
        if head == "indexes" and not name and method == "GET":
            return 200, msgspec.json.encode(self._indexes.listing())
        if head == "indexes" and name and method == "GET":
            return 200, msgspec.json.encode(self._indexes.described(self._indexes.get(name)))
        if head == "indexes" and name and method == "DELETE":
            self._indexes.delete(name)
            return 202, b"{}"
        raise Failure(404, f"this simulator has no {method} {path}")

    def _data(self, scope: Scope, path: str, body: bytes) -> tuple[int, bytes]:
        name, _, what = path.removeprefix("/hosts/").partition("/")
        records = self._indexes.serving(unquote(name))
        if len(body) > MAX_REQUEST_BYTES:
            raise Failure(400, f"message length too large: found {len(body)} bytes, the limit is: {MAX_REQUEST_BYTES} bytes")
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        operation = OPERATIONS.get((scope["method"], what))
        if operation is not None:
            return 200, msgspec.json.encode(operation(records, body, query))
        if what.startswith("namespaces/") and scope["method"] in {"GET", "DELETE"}:
            namespace = unquote(what.removeprefix("namespaces/"))
            return 200, msgspec.json.encode(one_namespace(scope["method"], records, namespace))
        raise Failure(404, f"this simulator has no {scope['method']} {what}")

    def _due_fault(self, path: str) -> Fault | None:
        fault = self._fault
        if fault is None or fault.path not in path:
            return None
        if fault.count is not None:
            fault.count -= 1
            if fault.count <= 0:
                self._fault = None
        return fault

    def _controlled(self, method: str, name: str, body: bytes) -> tuple[int, bytes]:
        control = self._controls.get((method, name))
        if control is None:
            return 404, msgspec.json.encode({"error": "no such control", "controls": [" ".join(each) for each in self._controls]})
        try:
            return 200, msgspec.json.encode(control(body))
        except msgspec.DecodeError as error:
            return 400, msgspec.json.encode({"error": str(error)})

    def _set_fault(self, body: bytes) -> object:
        self._fault = msgspec.json.decode(body, type=Fault)
        return self._fault

    def _clear_fault(self, _body: bytes) -> object:
        self._fault = None
        return {}

    def _set_visibility(self, body: bytes) -> object:
        given = msgspec.json.decode(body, type=Visibility)
        self._visibility.delay_ms, self._visibility.held = given.delay_ms, given.held
        return given

    def _clear_log(self, _body: bytes) -> object:
        self._log.clear()
        return {}

    def _clear_state(self, _body: bytes) -> object:
        self._indexes.clear()
        return {}

    def _state(self) -> object:
        """The ids and metadata of everything visible, by index and namespace."""
        return {name: records.shown() for name, records in self._indexes.all_records().items()}


def _authenticate(headers: Mapping[bytes, bytes]) -> None:
    key = headers.get(b"api-key", b"").decode("latin-1")
    if not key or "refused" in key:
        raise Failure(401, "Invalid API Key")


def _namespace(scope: Scope, body: bytes) -> str:
    if body:
        try:
            named = msgspec.json.decode(body, type=_Named)
        except msgspec.DecodeError:
            return ""
        return named.namespace
    query: str = scope["query_string"].decode("latin-1")
    return parse_qs(query).get("namespace", [""])[0]
