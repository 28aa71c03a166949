"""One call from its arrival to its last byte: what is answered, what is broken off, what is logged.

An entry ends exactly once: before the last byte of a whole answer is sent, before a fault breaks it off, or when the client is
seen to have left. A provider bills what it generated, whether or not it arrived.
"""

from __future__ import annotations

import random
import secrets
import time
from dataclasses import dataclass
from datetime import timedelta
from email.utils import format_datetime
from math import ceil, exp

import msgspec

from simulator import anthropic_request, embedding_request, openai_refusals, openai_wire
from simulator.answers import Answer, Ask, answer, said_in
from simulator.attempts import AttemptLog, Entry, State, now
from simulator.connection import Connection
from simulator.faults import NO_FAULT, Operation, Scenario, Step, UnknownFault, preset
from simulator.limits import Counters, HeaderList
from simulator.prefix_cache import PrefixCache
from simulator.protocol import Dialect, Frame, FrameKind, Rejected
from simulator.structured import Json

_JSON = (b"content-type", b"application/json")
_EVENTS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))
_MID_STREAM = frozenset({"stall", "cut", "truncate", "malformed", "stream_error"})


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the provider is if no fault says otherwise. The latency is a median; `spread` is the sigma of its logarithm."""

    latency_ms: float = 0.0
    latency_spread: float = 0.0
    tokens_per_second: float = 0.0


@dataclass(slots=True)
class Desk:
    """What all calls share."""

    log: AttemptLog
    scenario: Scenario
    counters: Counters
    cache: PrefixCache
    pace: Pace
    chance: random.Random
    run: str

    @classmethod
    def opened(cls, log: AttemptLog, pace: Pace, counters: Counters, cache: PrefixCache, seed: int) -> Desk:
        chance = random.Random(seed)  # noqa: S311 -- latencies, not secrets
        return cls(log, Scenario(seed), counters, cache, pace, chance, secrets.token_hex(5))

    def latency_seconds(self) -> float:
        pace = self.pace
        if pace.latency_spread == 0:
            return pace.latency_ms / 1000
        return pace.latency_ms / 1000 * exp(self.chance.gauss(0, pace.latency_spread))


class Exchange:
    def __init__(self, desk: Desk, connection: Connection, wire: Dialect, entry: Entry, fault: str | None) -> None:
        self._desk = desk
        self._connection = connection
        self._wire = wire
        self._entry = entry
        self._asked_fault = fault
        self._began = time.perf_counter()

    @property
    def _key(self) -> str:
        return self._entry.key or ""

    async def complete(self, raw: bytes, version: str) -> None:
        """Raises Rejected."""
        ask = self._wire.parse(raw, self._key, version)
        entry = self._entry
        entry.model, entry.stream, entry.user = ask.model.name, ask.stream, ask.user
        try:
            said, wished = said_in(ask.prompt)
        except (ValueError, msgspec.ValidationError) as error:
            raise Rejected(400, f"The simulator's marker is not understood: {error}") from None
        step = self._step("completion", ask.model.name, ask.fault or wished, stream=ask.stream)
        result = answer(ask, said, step)
        owed = self._wire.usage(ask, result, result.output_tokens) if step.billed else None
        if await self._broken_before_headers(step, ask.input.total, ask.model.context_tokens, owed):
            return
        self._spend(ask.input.total + result.output_tokens)
        for prefix, seconds in ask.cache_writes:
            self._desk.cache.write(prefix, seconds)
        await self._delay_headers(step)
        if ask.stream:
            await _Stream(self, ask, result, step).send()
        else:
            await self._send_whole(ask, result, step)

    async def embed(self, raw: bytes) -> None:
        """Raises Rejected."""
        asked = embedding_request.parse(raw)
        self._entry.model, self._entry.user = asked.model.name, asked.user
        step = self._step("embedding", asked.model.name, asked.fault, stream=False)
        owed = openai_wire.embedding_usage(asked)
        if await self._broken_before_headers(step, asked.tokens, asked.model.context_tokens, owed if step.billed else None):
            return
        self._spend(asked.tokens)
        await self._delay_headers(step)
        body = openai_wire.embedding_body(asked)
        if step.fault == "no_usage":
            body = body.replace(b',"usage":' + msgspec.json.encode(owed), b"")
        await self._send_body(body, owed, step)

    async def plain(self, operation: Operation, body: bytes, model: str) -> None:
        """A model list or a token count: nothing is billed. Raises Rejected."""
        step = self._step(operation, model, None, stream=False)
        if await self._broken_before_headers(step, 0, 0, None):
            return
        await self._delay_headers(step)
        await self._send_body(body, None, step)

    async def reject(self, rejected: Rejected, extra: HeaderList | None = None, *, body: bytes | None = None) -> None:
        entry = self._entry
        if body is None:
            body = self._wire.rejection(rejected, entry.request_id)
        headers = [*self.headers(), *(extra or [])]
        if all(name != b"content-type" for name, _ in headers):
            headers.append(_JSON)
        await self._respond(rejected.status, headers, body)

    def headers(self) -> HeaderList:
        entry = self._entry
        headers = self._desk.counters.headers(entry.provider, self._key)
        headers.append((self._wire.request_id_header, entry.request_id.encode()))
        if entry.provider == "openai":
            spent = (time.perf_counter() - self._began) * 1000
            headers += [(b"openai-version", b"2020-10-01"), (b"openai-processing-ms", b"%d" % ceil(spent))]
        else:
            headers.append((b"anthropic-organization-id", b"5d1e4a6b-9c47-4b1d-90c1-a7e43f0c8a52"))
        return headers

    def ended(self, state: State) -> None:
        """Logs the entry, as `disconnected` if the client has left. Only the first call counts."""
        if self._entry.state != "open":
            return
        elapsed = (time.perf_counter() - self._began) * 1000
        if self._connection.gone:
            state = "disconnected"
        self._desk.log.ended(self._entry, state, elapsed)

    def bill(self, usage: dict[str, Json] | None, output_tokens: int, step: Step, *, sent: bool) -> None:
        entry = self._entry
        entry.billed = step.billed if step.billed is not None else usage is not None
        entry.usage = usage if entry.billed else None
        entry.usage_sent = sent and entry.billed and not self._connection.gone
        entry.output_tokens = output_tokens

    def _step(self, operation: Operation, model: str, named: str | None, *, stream: bool) -> Step:
        entry = self._entry
        named = self._asked_fault or named
        if named is not None:
            try:
                step = preset(named)
            except UnknownFault as error:
                raise Rejected(400, str(error)) from None
        else:
            step = self._desk.scenario.take(entry.provider, operation, model, stream=stream, key=self._key)
        if step is not NO_FAULT:
            entry.fault = step.fault if step.fault != "none" else "delay" if step.answer is None else None
        return step

    def _spend(self, tokens: int) -> None:
        wait = self._desk.counters.take(self._entry.provider, self._key, tokens)
        if wait > 0:
            raise LimitReached(wait)

    async def _delay_headers(self, step: Step) -> None:
        delay = step.headers_delay_ms
        await self._connection.pause(self._desk.latency_seconds() if delay is None else delay / 1000)

    async def _broken_before_headers(self, step: Step, tokens: int, window: int, owed: dict[str, Json] | None) -> bool:
        """Returns True if the fault leaves nothing to answer."""
        fault = step.fault
        if fault in {"status", "context_too_long", "prompt_filter"}:
            await self._delay_headers(step)
            await self._refuse(step, tokens, window)
            return True
        if fault not in {"reset", "disconnect", "silent"}:
            return False
        if fault == "silent":
            await self._connection.pause(3600 if step.stall_ms is None else step.stall_ms / 1000)
        await self._delay_headers(step)
        self.bill(owed, 0, step, sent=False)
        self.ended("aborted")
        if fault == "reset":
            await self._connection.reset()
        else:
            await self._connection.close()
        return True

    async def _refuse(self, step: Step, tokens: int, window: int) -> None:
        anthropic = self._entry.provider == "anthropic"
        if step.fault == "context_too_long":
            too_long = anthropic_request.too_long if anthropic else openai_refusals.too_long
            await self.reject(too_long(max(tokens, window) + 1, window))
        elif step.fault == "prompt_filter":
            code = None if anthropic else "content_policy_violation"
            text = (
                "Output blocked by content filtering policy" if anthropic else "Your request was rejected by our safety system."
            )
            await self.reject(Rejected(400, text, code=code))
        else:
            rejected = Rejected(step.status, step.error_message or "", kind=step.error_type, code=step.error_code)
            body = None
            if step.body is not None:
                body = step.body.encode() if isinstance(step.body, str) else msgspec.json.encode(step.body)
            await self.reject(rejected, _fault_headers(step), body=body)

    async def _send_whole(self, ask: Ask, result: Answer, step: Step) -> None:
        per_token = self._desk.pace.tokens_per_second if step.token_delay_ms is None else 1000 / max(step.token_delay_ms, 0.001)
        if per_token > 0:
            await self._connection.pause(result.output_tokens / per_token)
        await self._connection.pause((step.first_token_delay_ms or 0) / 1000)
        if step.fault == "stream_error":
            await self.reject(Rejected(529 if self._entry.provider == "anthropic" else 503, kind=step.error_type))
            return
        usage = self._wire.usage(ask, result, result.output_tokens)
        self._entry.output_tokens = result.output_tokens
        body = self._wire.body(ask, result, self.answer_id(), step.fault)
        await self._send_body(body, usage, step)

    async def _send_body(self, body: bytes, usage: dict[str, Json] | None, step: Step) -> None:
        """Sends a whole 200, or half of one if the fault requires it."""
        tokens, fault = self._entry.output_tokens, step.fault
        if fault in {"malformed", "truncate"}:
            body = body[: len(body) // 2]
        if fault not in {"stall", "cut"}:
            self.bill(usage, tokens, step, sent=fault not in {"malformed", "truncate", "no_usage"})
            await self._respond(200, [*self.headers(), _JSON], body)
            return
        self.bill(usage, tokens, step, sent=False)
        self._entry.status = 200
        headers = [*self.headers(), _JSON, (b"content-length", b"%d" % len(body))]
        await self._connection.start(200, headers)
        await self._connection.write(body[: len(body) // 2], more=True)
        await self._connection.flushed()
        if fault == "stall":
            await self._connection.pause(3600 if step.stall_ms is None else step.stall_ms / 1000)
        self.ended("aborted")
        await self._connection.close()

    async def _respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        self._entry.status = status
        headers.append((b"content-length", b"%d" % len(body)))
        self.ended("completed")
        await self._connection.start(status, headers)
        await self._connection.write(body, more=False)

    def answer_id(self) -> str:
        prefix = "msg_01" if self._entry.provider == "anthropic" else "chatcmpl-"
        return f"{prefix}{self._desk.run}{self._entry.sequence:012d}"

    @property
    def connection(self) -> Connection:
        return self._connection

    @property
    def wire(self) -> Dialect:
        return self._wire

    @property
    def entry(self) -> Entry:
        return self._entry

    @property
    def token_seconds(self) -> float:
        rate = self._desk.pace.tokens_per_second
        return 1 / rate if rate > 0 else 0.0


class LimitReached(Rejected):
    """The simulator's own limit. Has the seconds to wait."""

    def __init__(self, wait_seconds: float) -> None:
        super().__init__(429)
        self.wait_seconds = wait_seconds

    def headers(self) -> HeaderList:
        return [
            (b"retry-after", b"%d" % ceil(self.wait_seconds)),
            (b"retry-after-ms", b"%d" % ceil(self.wait_seconds * 1000)),
        ]


class _Stream:
    """The events of one answer. Without a pace they are sent together. A fault acts between two of them."""

    def __init__(self, exchange: Exchange, ask: Ask, result: Answer, step: Step) -> None:
        self._exchange = exchange
        self._connection = exchange.connection
        self._ask = ask
        self._result = result
        self._step = step
        delay = step.token_delay_ms
        self._token_seconds = exchange.token_seconds if delay is None else delay / 1000
        self._waiting: list[bytes] = []
        self._tokens = 0
        self._due = 0.0

    async def send(self) -> None:
        exchange = self._exchange
        exchange.entry.status = 200
        await self._connection.start(200, [*exchange.headers(), *_EVENTS])
        strikes = self._step.fault in _MID_STREAM
        for frame in exchange.wire.frames(self._ask, self._result, exchange.answer_id(), self._step.fault):
            if strikes and self._is_struck(frame):
                strikes = False
                if await self._struck():
                    return
            await self._keep_pace(frame)
            if self._connection.gone:
                break
            self._waiting.append(frame.data)
            self._tokens = frame.tokens
        await self._finish()

    async def _finish(self) -> None:
        whole = self._tokens == self._result.output_tokens and not self._connection.gone
        self._bill(sent=whole and self._ask.include_usage and self._step.fault != "no_usage")
        if self._step.fault == "no_done" and self._step.stall_ms is not None:
            await self._flush()
            await self._connection.pause(self._step.stall_ms / 1000)
        self._exchange.ended("completed")
        await self._connection.write(b"".join(self._waiting), more=False)

    async def _keep_pace(self, frame: Frame) -> None:
        if frame.kind is not FrameKind.DELTA:
            return
        first = self._due == 0.0
        wait = (self._step.first_token_delay_ms or 0) / 1000 if first else self._token_seconds
        if wait == 0:
            self._due = self._due or time.monotonic()
            return
        await self._flush()
        now_ = time.monotonic()
        self._due = max(self._due, now_ - 1) + wait if not first else now_ + wait
        await self._connection.pause(self._due - now_)

    def _is_struck(self, frame: Frame) -> bool:
        return frame.kind is FrameKind.CLOSING or (frame.kind is FrameKind.DELTA and frame.tokens > self._step.after_tokens)

    async def _struck(self) -> bool:
        """Returns True if the stream is over."""
        await self._flush()
        await self._connection.flushed()
        await self._connection.pause(self._step.fault_delay_ms / 1000)
        self._bill(sent=False)
        fault = self._step.fault
        exchange = self._exchange
        if fault == "stall":
            await self._connection.pause(3600 if self._step.stall_ms is None else self._step.stall_ms / 1000)
            if self._step.stall_ms is not None and not self._connection.gone:
                return False
        if fault == "malformed":
            await self._connection.write(exchange.wire.malformed_frame(), more=True)
            return False
        exchange.ended("aborted")
        if fault == "stream_error":
            kind = self._step.error_type or ("overloaded_error" if exchange.entry.provider == "anthropic" else "server_error")
            rejected = Rejected(529, self._step.error_message or "Overloaded", kind=kind, code=self._step.error_code)
            await self._connection.write(exchange.wire.stream_error(rejected, exchange.entry.request_id), more=False)
        elif fault == "truncate":
            await self._connection.write(b"", more=False)
        else:
            await self._connection.close()
        return True

    def _bill(self, *, sent: bool) -> None:
        usage = self._exchange.wire.usage(self._ask, self._result, self._tokens)
        self._exchange.bill(usage, self._tokens, self._step, sent=sent)

    async def _flush(self) -> None:
        if self._waiting:
            data, self._waiting = b"".join(self._waiting), []
            await self._connection.write(data, more=True)


def _fault_headers(step: Step) -> HeaderList:
    headers = [(name.lower().encode(), value.encode()) for name, value in step.headers.items()]
    if step.retry_after is not None:
        headers.append((b"retry-after", b"%g" % step.retry_after))
    if step.retry_after_ms is not None:
        headers.append((b"retry-after-ms", b"%g" % step.retry_after_ms))
    if step.retry_after_date is not None:
        at = now() + timedelta(seconds=step.retry_after_date)
        headers.append((b"retry-after", format_datetime(at, usegmt=True).encode()))
    return headers
