"""One provider's HTTP API, reached through its SDK's low-level calls: keys, the pool, four timeouts and typed failures.

Both adapters send through this module, so each of these is decided once. The SDK handles authentication, addresses and
transport. It never retries, never follows a redirect and never sees our models.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from typing import Any, TypeAlias, TypeVar, cast

import aiohttp
import httpx2

from app.domain.errors import FailureKind, ProviderError
from app.domain.usage import RateLimitReport
from app.llm import failures
from app.llm.failure_table import look_up
from app.llm.providers.bodies import Begun, BrokenAnswer, ErrorAnswer, ParameterRefused, chunks_of
from app.llm.providers.connection_pool import PROBES, ConnectionPool
from app.llm.providers.encoded_request import EncodedRequest
from app.llm.providers.keyring import ApiKey, Keyring
from app.llm.providers.sse import EventTooLarge, StreamedBody
from app.llm.providers.stream_phase import GRACES, FirstTokenWait, Phase
from app.llm.providers.usage_figures import counts_of
from app.llm.providers.wire_text import Malformed, clean, read_object
from app.llm.refused_parameters import Parameters
from app.runtime.await_timeout import TimeLimit
from app.runtime.clock import Clock
from app.runtime.ticks import MIN_WAIT, Ticks, waiting_seconds
from app.settings import ProviderSettings
from app.web.capacity import NO_HOLDER, Holder

POOL_WAIT_SECONDS = 1.0
_CONNECTING_SHARE = 0.9
"""The part of a short time limit that connecting may take. The rest is for what the SDK does before it connects."""
_EXACT_SECONDS = 5.0
_DRAIN_SECONDS = 0.1
_KEEP_ALIVE_SECONDS = 4.0
_MAX_ID_LENGTH = 200
_LARGE_CHUNK = 16 * 1024
"""The transport reads at most this much at a time. After a full chunk more data is waiting."""
_TRANSPORT_ERRORS = (httpx2.HTTPError, httpx2.StreamError, aiohttp.ClientError, OSError)

Options: TypeAlias = dict[str, Any]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Sdk:
    """An SDK's async client, the types of its errors, and the names of its provider's headers. `no_key` is the header value
    that leaves a header out. Each of `tokens_headers` says how many tokens of one kind are left. `parameters` are those that
    can be left out of a request."""

    client: Any
    http: httpx2.AsyncClient
    status_error: type[Exception]
    connection_error: type[Exception]
    no_key: object
    request_id_header: str
    requests_header: str
    tokens_headers: tuple[str, ...]
    parameters: Parameters


def silence(*loggers: str) -> None:
    """Stops debug logs of the SDKs at any log level of the service, because they hold keys and prompts."""
    for name in loggers:
        logging.getLogger(name).setLevel(logging.WARNING)


def client_options(settings: ProviderSettings) -> dict[str, Any]:
    """The options of an SDK's aiohttp client. Upstream limits the wait for the pool with an exact timeout. aiohttp's pool
    timeout also covers connecting, so it has to be the longer one."""
    connect = settings.timeouts.connect.total_seconds()
    return {
        "limits": httpx2.Limits(max_connections=settings.pool_size, keepalive_expiry=_KEEP_ALIVE_SECONDS),
        "timeout": httpx2.Timeout(connect=connect, read=None, write=None, pool=connect + POOL_WAIT_SECONDS),
        "follow_redirects": False,
        "trust_env": not settings.simulated,
        "verify": _certificates(trust_env=not settings.simulated),
    }


@cache
def _certificates(*, trust_env: bool) -> ssl.SSLContext:
    """The certificate authorities that this machine trusts. They are read once in a process, because that takes most of the time
    of building a client."""
    return httpx2.create_ssl_context(trust_env=trust_env)


def connecting_timeout(usual_seconds: float, seconds: float) -> httpx2.Timeout:
    """A timeout that ends within `seconds`, in every phase until there is a connection."""
    connect = _before_rounding(min(usual_seconds, seconds))
    return httpx2.Timeout(connect=connect, read=None, write=None, pool=_before_rounding(seconds))


def _before_rounding(seconds: float) -> float:
    """aiohttp ends a timeout of more than five seconds at the next whole second of its clock."""
    return seconds if seconds <= _EXACT_SECONDS else max(_EXACT_SECONDS, seconds - 1)


class Upstream:
    def __init__(self, sdk: Sdk, settings: ProviderSettings, keys: Keyring, clock: Clock) -> None:
        self._sdk = sdk
        self._name = settings.name
        self._kind = settings.kind
        self._timeouts = settings.timeouts
        self._keys = keys
        self._clock = clock
        self._pool = ConnectionPool(settings.pool_size)
        self._options: dict[ApiKey, dict[str, Any]] = {}
        self._streams = 0
        self._ticks = Ticks(clock)
        self._heads: dict[asyncio.Task[Any] | None, httpx2.Response | None] = {}
        sdk.http.event_hooks = {"request": [self._begins], "response": [self._has_begun]}

    async def post(
        self,
        path: str,
        request: EncodedRequest,
        *,
        model: str,
        deadline: float,
        answer_timeout: timedelta,
        holder: Holder = NO_HOLDER,
    ) -> Begun:
        """Returns the whole answer, with a status below 300. Raises ProviderError; BrokenAnswer if an answer had begun."""

        async def send(key: ApiKey) -> Begun:
            begun: list[Begun] = []
            await self._acquire(deadline, holder)
            began_at = self._clock.monotonic()
            try:
                await self._within(partial(self._whole, path, request, begun), key, deadline, answer_timeout, request.given_back)
                return begun[0]
            except ProviderError as failure:
                if not begun:
                    raise
                kind = FailureKind.TRUNCATED if failure.kind is FailureKind.CONNECTION else failure.kind
                raise BrokenAnswer(kind, begun[0], -self.until(began_at), self.request_id(begun[0].response)) from None
            finally:
                self._pool.give_back(holder)

        return await self._with_a_key(model, send)

    async def _head(self, path: str, request: EncodedRequest, options: Options) -> httpx2.Response:
        if request.headers:
            options = {**options, "headers": {**options["headers"], **dict(request.headers)}}
        response: httpx2.Response = await self._sdk.client.post(
            path, cast_to=httpx2.Response, content=request.body, options=options, stream=True, stream_cls=object
        )
        return response

    async def _whole(self, path: str, request: EncodedRequest, begun: list[Begun], options: Options) -> httpx2.Response:
        """`begun` gets the answer when its head has arrived."""
        response = await self._head(path, request, options)
        received = bytearray()
        begun.append(Begun(response, received))
        try:
            async for chunk in response.aiter_raw():
                received += chunk
        finally:
            await response.aclose()
        return response

    async def open(
        self,
        path: str,
        request: EncodedRequest,
        *,
        model: str,
        first_token: timedelta,
        silence_deadline: float,
        deadline: float,
        holder: Holder = NO_HOLDER,
    ) -> EventStream:
        """Returns a stream whose headers have arrived. The caller closes it. Its first token must come within `first_token` and
        before `silence_deadline`. Raises ProviderError."""

        async def send(key: ApiKey) -> EventStream:
            await self._acquire(silence_deadline, holder)
            wait = FirstTokenWait(self._clock.monotonic() + first_token.total_seconds(), silence_deadline)
            try:
                response = await self._within(
                    partial(self._head, path, request), key, silence_deadline, first_token, request.given_back
                )
            except BaseException:
                self._pool.give_back(holder)
                raise
            self._streams += 1
            return EventStream(response, self, wait, deadline, holder)

        return await self._with_a_key(model, send)

    async def get(self, path: str, params: Mapping[str, object]) -> httpx2.Response:
        """A small request that costs nothing. It is limited by the first-token timeout."""
        deadline = self._clock.monotonic() + self._timeouts.first_token.total_seconds()

        async def send(key: ApiKey) -> httpx2.Response:
            async def ask(options: Options) -> httpx2.Response:
                response: httpx2.Response = await self._sdk.client.get(
                    path, cast_to=httpx2.Response, options={**options, "params": params}
                )
                return response

            await self._acquire(deadline, PROBES)
            try:
                return await self._within(ask, key, deadline, self._timeouts.first_token)
            finally:
                self._pool.give_back(PROBES)

        return await self._with_a_key(None, send)

    async def close(self) -> None:
        await self._sdk.client.close()

    def request_id(self, response: httpx2.Response) -> str | None:
        text = response.headers.get(self._sdk.request_id_header)
        return clean(text)[:_MAX_ID_LENGTH] if text else None

    def rate_limits(self, response: httpx2.Response) -> RateLimitReport | None:
        return failures.rate_limits(response.headers, self._sdk.requests_header, self._sdk.tokens_headers)

    def remaining(self, deadline: float, allowed: float, kind: FailureKind) -> tuple[float, FailureKind]:
        """Returns the seconds until the first of the two limits, and the failure if that limit passes."""
        left = deadline - self._clock.monotonic()
        if left <= allowed:
            return max(left, 0.0), FailureKind.TOTAL_TIMEOUT
        return max(allowed, 0.0), kind

    def until(self, at: float) -> float:
        return at - self._clock.monotonic()

    def later(self, seconds: float) -> float:
        return self._clock.monotonic() + seconds

    @property
    def idle(self) -> float:
        return self._timeouts.idle.total_seconds()

    def closed(self, holder: Holder) -> None:
        """Records that a stream has returned its connection."""
        self._streams -= 1
        self._pool.give_back(holder)

    def gather(self, response: httpx2.Response, deadline: float) -> float:
        """Lets the operating system buffer a stream for a while. Returns for how many seconds: longer if many streams run.
        Nothing is lost if the connection breaks meanwhile."""
        seconds = min(waiting_seconds(self._streams, self._ticks.late), self.until(deadline) - 2 * MIN_WAIT)
        transport = _transport(response)
        if seconds < MIN_WAIT or transport is None or transport.is_closing():
            return 0.0
        transport.pause_reading()
        self._ticks.after(seconds, partial(_read_on, transport))
        return seconds

    async def _with_a_key(self, model: str | None, send: Callable[[ApiKey], Awaitable[_T]]) -> _T:
        """Tries the next key if an error concerns only the key. A refused key is set aside. A key that is only rate limited, or
        that lacks this model, is skipped for this call."""
        refused = ProviderError(FailureKind.KEY_REFUSED)
        tried: set[ApiKey] = set()
        while len(tried) < 2 * len(self._keys) and (key := self._keys.pick(model, tried)) is not None:
            tried.add(key)
            if not key.can_be_sent:
                self._keys.refuse(key, None)
                continue
            try:
                return await send(key)
            except ProviderError as error:
                if not error.concerns_key:
                    raise
                if error.kind is FailureKind.KEY_REFUSED:
                    self._keys.refuse(key, model if error.status_code == 403 else None)
                refused = error
        raise refused

    async def _acquire(self, deadline: float, holder: Holder) -> None:
        limit, kind = self.remaining(deadline, POOL_WAIT_SECONDS, FailureKind.POOL_EXHAUSTED)
        if not limit:
            raise ProviderError(kind)
        if self._pool.take(holder):
            return
        try:
            async with asyncio.timeout(limit):
                await self._pool.wait(holder)
        except TimeoutError:
            raise ProviderError(kind) from None

    async def _within(
        self,
        ask: Callable[[Options], Awaitable[httpx2.Response]],
        key: ApiKey,
        deadline: float,
        allowed: timedelta,
        given_back: frozenset[str] = frozenset(),
    ) -> httpx2.Response:
        """If a limit passes before there is a connection, the error says so: nothing was sent, so nothing is billed."""
        seconds, kind = self.remaining(deadline, allowed.total_seconds(), FailureKind.FIRST_TOKEN_TIMEOUT)
        if not seconds:
            raise ProviderError(kind)
        limit, began_at = TimeLimit(), self._clock.monotonic()
        options, connect_seconds = self._options_for(key), seconds * _CONNECTING_SHARE
        usual_seconds = self._timeouts.connect.total_seconds()
        if connect_seconds < usual_seconds + POOL_WAIT_SECONDS + 1:
            options = {**options, "timeout": connecting_timeout(usual_seconds, connect_seconds)}
        task = asyncio.current_task()
        try:
            with limit.of(seconds):
                return await ask(options)
        except self._sdk.status_error as error:
            refused = cast("Any", error)
            raise self._refusal(refused.response, refused.body, given_back) from None
        except (TimeoutError, self._sdk.connection_error, *_TRANSPORT_ERRORS, ValueError) as error:
            response = self._heads.get(task)
            if response is not None:
                raise self._refusal(response, None, given_back) from None
            if isinstance(error, TimeoutError):
                raise ProviderError(kind, unanswered_seconds=-self.until(began_at)) from None
            if isinstance(error, ValueError) and task not in self._heads:
                raise failures.unforeseen(error, self._name) from None
            failed_by = failures.transport_failure(error)
            if failed_by is FailureKind.CONNECT_TIMEOUT and connect_seconds < usual_seconds:
                raise ProviderError(kind) from None
            waited = -self.until(began_at) if failures.may_have_arrived(error) else None
            raise ProviderError(failed_by, unanswered_seconds=waited) from None
        except Exception as error:  # noqa: BLE001  # whatever a library raises is this target's failure
            raise failures.unforeseen(error, self._name) from None
        finally:
            self._heads.pop(task, None)
            limit.close()

    async def _begins(self, _: httpx2.Request) -> None:
        self._heads[asyncio.current_task()] = None

    async def _has_begun(self, response: httpx2.Response) -> None:
        """Keeps the head of an error, whose body may not be readable."""
        if not response.is_success:
            self._heads[asyncio.current_task()] = response

    def _refusal(self, response: httpx2.Response, said: object, given_back: frozenset[str]) -> ErrorAnswer:
        """`said` is the body as the SDK has read it."""
        body: Mapping[str, object] = {}
        if said is not None:
            try:
                said = body = read_object(response.content)[0]
            except Malformed:
                pass
        words = failures.error_words(said)
        kind = look_up(self._kind, response.status_code, words.error_type, words.code, words.message, parameter=words.parameter)
        request_id = self.request_id(response)
        refusal = self._sdk.parameters.and_asked(given_back).refused(kind, response.status_code, words, said)
        failure = (
            ErrorAnswer(
                kind,
                status_code=response.status_code,
                retry_after=failures.retry_after(response.headers, self._clock.now()),
                provider_request_id=request_id,
                rate_limits=self.rate_limits(response),
            )
            if refusal is None
            else ParameterRefused(refusal, response.status_code, request_id)
        )
        failure.billed = counts_of(body)
        return failure

    def _options_for(self, key: ApiKey) -> Options:
        options = self._options.get(key)
        if options is None:
            bearer = self._sdk.no_key if key.secret is None else f"Bearer {key.secret}"
            options = {"headers": {"Authorization": bearer, "Accept-Encoding": "identity"}}
            self._options = {**self._options, key: options} if len(self._options) < 2 * len(self._keys) else {key: options}
        return options


class EventStream:
    """The payloads of one streamed answer. Its reader sets `phase` as the answer goes on, and must close it.

    A stream that shows its content is read several times a second, less often if many streams run. Each read returns what has
    arrived since. An end of the body is not a failure here, because only the adapter knows whether the provider's last event
    has come.
    """

    def __init__(
        self, response: httpx2.Response, upstream: Upstream, first_token: FirstTokenWait, deadline: float, holder: Holder
    ) -> None:
        self.response = response
        self._holder = holder
        self.phase = Phase.FIRST
        self._upstream = upstream
        self._opened_at = upstream.later(0)
        self._first_token = first_token
        self._rest_by: float | None = None
        self._deadline = deadline
        self._time_limit = TimeLimit()
        self._reader = StreamedBody()
        self._chunks = chunks_of(response)
        self._gathers = False
        self.sends_events = response.headers.get("content-type", "").lower().startswith("text/event-stream")
        self.ended = False
        self._closed = False

    async def read(self) -> list[bytes] | None:
        """Returns the events of the next chunk, perhaps none; None at the end of the body. Raises ProviderError.

        In Phase.COMPLETE and Phase.BILLED every error only ends the stream.
        """
        if self.ended:
            return None
        gathers = self._gathers and self.phase is Phase.IDLE
        limit, kind = self._limit(self._upstream.gather(self.response, self._deadline) if gathers else 0.0)
        try:
            with self._time_limit.of(limit):
                chunk = await anext(self._chunks)
            self._gathers = len(chunk) < _LARGE_CHUNK
            return self._reader.feed(chunk)
        except StopAsyncIteration:
            self.ended = True
            return self._reader.flush()
        except (TimeoutError, EventTooLarge, *_TRANSPORT_ERRORS) as error:
            self.ended = True
            if self.phase in GRACES:
                return None
            raise self._failure(error, kind) from None

    def wait_for(self, phase: Phase, *, anew: bool) -> None:
        """Sets what the stream waits for from now on. After words the wait starts `anew`. Without them its earlier end stays."""
        self.phase = phase
        if anew:
            self._rest_by = None

    @property
    def document(self) -> bytes:
        """The body, if it is one JSON object and not a stream of events."""
        return self._reader.document

    @property
    def seconds(self) -> float:
        """The seconds since the stream was opened."""
        return -self._upstream.until(self._opened_at)

    async def drain(self) -> None:
        """Reads the end of a finished body for a moment, so that its connection can be used again."""
        try:
            with self._time_limit.of(_DRAIN_SECONDS):
                while not self.ended:
                    await anext(self._chunks)
        except (TimeoutError, StopAsyncIteration, *_TRANSPORT_ERRORS):
            self.ended = True

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._time_limit.close()
        self._upstream.closed(self._holder)
        try:
            if isinstance(self._chunks, AsyncGenerator):
                await self._chunks.aclose()
        finally:
            await self.response.aclose()

    def _limit(self, gathering: float) -> tuple[float, FailureKind]:
        if self.phase is Phase.FIRST:
            wait = self._first_token
            return self._upstream.remaining(wait.deadline, self._upstream.until(wait.timeout_at), FailureKind.FIRST_TOKEN_TIMEOUT)
        if self.phase is Phase.IDLE:
            return self._upstream.remaining(self._deadline, gathering + self._upstream.idle, FailureKind.IDLE_TIMEOUT)
        rest_by = self._upstream.later(GRACES.get(self.phase, self._upstream.idle))
        self._rest_by = rest_by if self._rest_by is None else min(self._rest_by, rest_by)
        return self._upstream.remaining(self._deadline, self._upstream.until(self._rest_by), FailureKind.IDLE_TIMEOUT)

    def _failure(self, error: BaseException, timeout_kind: FailureKind) -> ProviderError:
        if isinstance(error, TimeoutError):
            kind = timeout_kind
        elif isinstance(error, EventTooLarge):
            kind = FailureKind.MALFORMED
        else:
            kind = FailureKind.TRUNCATED if self.phase in {Phase.IDLE, Phase.MAYBE_IDLE} else failures.transport_failure(error)
        return ProviderError(
            kind, status_code=self.response.status_code, provider_request_id=self._upstream.request_id(self.response)
        )


def _transport(response: httpx2.Response) -> asyncio.Transport | None:
    """The transport under the SDK's wrappers of aiohttp. None if the body has ended, or if the wrappers have changed."""
    answer = getattr(getattr(response.stream, "_stream", None), "_aiohttp_response", None)
    return getattr(getattr(answer, "connection", None), "transport", None)


def _read_on(transport: asyncio.Transport) -> None:
    if not transport.is_closing():
        transport.resume_reading()
