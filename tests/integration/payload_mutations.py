"""Good answers of both wire protocols, and what becomes of them when their fields or bytes are changed.

Everything is drawn from the Random that is passed in, so that a seed and a number give the same payload again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from random import Random
from typing import Any, TypeAlias

import msgspec

Path: TypeAlias = "tuple[str | int, ...]"

GOLDEN = FilePath(__file__).parents[1] / "golden"
TEXT = "Good day to you all."


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()
ODD_VALUES: tuple[object, ...] = (
    ABSENT, None, [], ["odd"], [None], "odd", "", "12", 0, 7, -1, 1.5, 10**15, 10**40, True, False, {}, {"odd": 1}, [[[]]],
)  # fmt: skip

OPENAI_WHOLE: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_795_348_800,
    "model": "some-model",
    "service_tier": "default",
    "system_fingerprint": "fp_1",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": TEXT,
                "refusal": None,
                "annotations": [],
                "reasoning_content": "I greet.",
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 1000,
        "completion_tokens": 500,
        "total_tokens": 1500,
        "prompt_tokens_details": {"cached_tokens": 100, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 50, "audio_tokens": 0},
    },
}
ANTHROPIC_WHOLE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "some-model",
    "content": [{"type": "text", "text": TEXT, "citations": None}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 900,
        "cache_creation_input_tokens": 50,
        "cache_read_input_tokens": 50,
        "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 20},
        "output_tokens": 500,
        "service_tier": "standard",
    },
}


def _openai_events() -> list[Any]:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_795_348_800, "model": "some-model"}
        return {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}], "usage": None}

    last = {**chunk({}), "choices": [], "usage": OPENAI_WHOLE["usage"]}
    words = [chunk({"content": word}) for word in ("Good day ", "to you ", "all.")]
    return [chunk({"role": "assistant", "content": "", "refusal": None}), *words, chunk({}, "stop"), last]


def _anthropic_events() -> list[Any]:
    usage: dict[str, Any] = ANTHROPIC_WHOLE["usage"]
    start = {**ANTHROPIC_WHOLE, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
        for word in ("Good day ", "to you ", "all.")
    ]
    return [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "", "citations": None}},
        {"type": "ping"},
        *deltas,
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 500, "output_tokens_details": {"thinking_tokens": 0}},
        },
        {"type": "message_stop"},
    ]


OPENAI_EVENTS: list[Any] = _openai_events()
ANTHROPIC_EVENTS: list[Any] = _anthropic_events()


def paths(value: object, prefix: Path = ()) -> Iterator[Path]:
    """Of every field and item in it, at any depth."""
    if prefix:
        yield prefix
    items: Sequence[tuple[str | int, object]] = ()
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for name, inner in items:
        yield from paths(inner, (*prefix, name))


def changed(value: Any, path: Path, to: object) -> Any:
    """A copy with another value at this path, or without it."""
    found = copy.deepcopy(value)
    at = found
    for name in path[:-1]:
        at = at[name]
    if to is ABSENT:
        del at[path[-1]]
    else:
        at[path[-1]] = copy.deepcopy(to)
    return found


def encode(value: object) -> bytes:
    return msgspec.json.encode(value)


def encode_events(events: Sequence[object], *, done: bool) -> bytes:
    pieces = [b"data: " + (each if isinstance(each, bytes) else encode(each)) + b"\n\n" for each in events]
    return b"".join([*pieces, b"data: [DONE]\n\n"] if done else pieces)


@dataclass(frozen=True)
class Payload:
    """`cut`: the connection is dropped before the announced end. `is_field`: only values of fields were changed. `is_billed`: the
    provider made an answer, or says what it cost."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    cut: bool = False
    is_field: bool = False
    is_billed: bool = False

    @property
    def pieces(self) -> Sequence[bytes]:
        """The body as it is written."""
        return (self.body,)


_JSON = ("Content-Type", "application/json")
_EVENTS = ("Content-Type", "text/event-stream")
_ODD_HEADERS = (
    ("x-ratelimit-remaining-tokens", "-1"),
    ("x-ratelimit-remaining-requests", "unlimited"),
    ("x-ratelimit-limit-tokens", "0"),
    ("anthropic-ratelimit-tokens-remaining", "nan"),
    ("anthropic-ratelimit-requests-remaining", ""),
    ("retry-after", "soon"),
    ("retry-after", "-5"),
    ("retry-after-ms", "1e400"),
    ("request-id", "odd\tid"),
    ("x-request-id", "i" * 5000),
    ("content-type", "text/plain; charset=klingon"),
    ("content-encoding", "identity"),
)
_STATUSES = (400, 402, 404, 405, 408, 409, 413, 418, 422, 424, 425, 429, 451, 498, 499, 500, 501, 502, 503, 504, 520, 529, 599)
_ERRORS: tuple[Any, ...] = (
    {"error": {"message": "The server had an error.", "type": "server_error", "code": None}},
    {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "req_1"},
    {"object": "error", "message": "The engine is dead.", "type": "InternalServerError", "code": 500},
    {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE", "details": [{"reason": "x"}]}},
    {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
    {"message": {"detail": [{"msg": "Extra inputs are not permitted"}]}, "object": "error"},
    {"success": False, "errors": [{"code": 7000, "message": "No route for that URI"}], "result": None},
)


class Mutator:
    """Makes payloads of one protocol for calls that ask for a stream, or do not."""

    def __init__(self, random: Random, *, anthropic: bool, streamed: bool) -> None:
        self._random = random
        self._anthropic = anthropic
        self._streamed = streamed

    def payload(self) -> Payload:
        make = self._random.choices(
            (self._fields, self._shape, self._bytes, self._error, self._disorder, self._billed), weights=(54, 9, 11, 9, 7, 10)
        )[0]
        return make()

    def mutate(self, value: Any) -> Any:
        """One to three fields get odd values."""
        for _ in range(self._random.randint(1, 3)):
            places = list(paths(value))
            if not places:
                break
            value = changed(value, self._random.choice(places), self._random.choice(ODD_VALUES))
        return value

    def _fields(self) -> Payload:
        body = self._mutated_events() if self._streamed else encode(self.mutate(self._whole()))
        return Payload(200, self._headers(streamed=self._streamed), body, is_field=True)

    def _shape(self) -> Payload:
        """A document where a stream was asked for, or a stream where a document was; under either type."""
        mutate = self._random.random() < 0.5
        if self._streamed:
            body = encode(self.mutate(self._whole()) if mutate else self._whole())
        else:
            body = self._mutated_events() if mutate else encode_events(self._events(), done=not self._anthropic)
        return Payload(200, self._headers(streamed=self._random.random() < 0.5), body)

    def _bytes(self) -> Payload:
        good = encode_events(self._events(), done=not self._anthropic) if self._streamed else encode(self._whole())
        place = self._random.randrange(len(good))
        body, cut = self._random.choice(
            (
                (good[:place], False),
                (good[:place], True),
                (good[:place] + bytes(self._random.randrange(256) for _ in range(4)) + good[place + 4 :], False),
                (b"\xef\xbb\xbf" + good, False),
                (good.replace(b"Good", b"\\ud83d Go\\u0000od"), False),
                (good.replace(b"500", b"5e500"), False),
                (b'{"x":' + b"[" * 60_000 + b"]" * 60_000 + b"}", False),
                (b"", False),
                (b"null", False),
                (b"data: ", False),
                (b"<html><body>Bad gateway</body></html>", False),
            )
        )
        return Payload(200, self._headers(streamed=self._streamed), body, cut=cut)

    def _billed(self) -> Payload:
        """A whole answer or an error with figures, in forms that no server should send."""
        if self._streamed:
            return self._shape()
        whole, error = self._whole(), {"message": "Provider returned error", "code": 502}
        good, usage = encode(whole), whole["usage"]
        events = [*self._events()[: self._random.randrange(4, 6)], {"type": "error", "error": error}]
        alone = {"total_tokens": 1500}
        bodies: tuple[tuple[int, bytes], ...] = (
            (200, good[:-1] + b',"x":[NaN,-Infinity,1e400,' + b"9" * 6000 + b"]}"),
            (200, good[:-1] + b',"x":' + b"[" * 60_000 + b"]" * 60_000 + b"}"),
            (200, good[:-1] + b',"x":"\\d\n\x01\xff"}'),
            (200, good + self._random.choice((b"\n\0", b"}", b"\ngarbage", b"\n" + good))),
            (200, self._random.choice((b"[" + good + b"]", encode(good.decode()), b": PROCESSING\n\n" + good))),
            (200, good.decode().encode(self._random.choice(("utf-16", "utf-16-le", "utf-32")))),
            (200, encode({**whole, "usage": self._random.choice((alone, [{}, usage], [[usage]]))})),
            (200, encode({"error": error, "usage": self._random.choice((usage, alone))})),
            (self._random.choice(_STATUSES), encode({"error": error, "usage": self._random.choice((usage, alone))})),
            (200, encode_events(events, done=False)),
            (200, good),
        )
        status, body = self._random.choice(bodies)
        header = self._random.choice((("X-Debug", "y" * 9000), ("Content-Encoding", "gzip"), None)) if body == good else None
        cut = body == good and header is None
        headers = (_JSON,) if header is None else (_JSON, header)
        return Payload(status, headers, body[: 0 if cut else None], cut=cut, is_billed=True)

    def _error(self) -> Payload:
        """With a status of its own, with 200, or inside a stream."""
        error = self._random.choice(_ERRORS)
        if self._random.random() < 0.7:
            error = self.mutate(error)
        if self._streamed and self._random.random() < 0.4:
            events = self._events()
            body = encode_events([*events[: self._random.randrange(len(events))], error], done=False)
            return Payload(200, self._headers(streamed=self._streamed), body)
        status = 200 if self._random.random() < 0.3 else self._random.choice(_STATUSES)
        return Payload(status, self._headers(streamed=False), encode(error))

    def _disorder(self) -> Payload:
        """Events that come twice, in another order or never, or that are no events."""
        if not self._streamed:
            return self._fields()
        events: list[Any] = self._events()
        for _ in range(self._random.randint(1, 3)):
            place = self._random.randrange(len(events))
            odd: Any = self._random.choice(
                (events[place], {}, [], None, "odd", 7, b"", b"[DONE]", b"not json", {"type": "new_kind"})
            )
            how = self._random.choice(("drop", "insert", "swap"))
            if how == "drop" and len(events) > 1:
                del events[place]
            elif how == "insert":
                events.insert(self._random.randrange(len(events)), odd)
            else:
                self._random.shuffle(events)
        return Payload(200, self._headers(streamed=True), encode_events(events, done=self._random.random() < 0.5))

    def _mutated_events(self) -> bytes:
        events = self._events()
        for _ in range(self._random.randint(1, 2)):
            place = self._random.randrange(len(events))
            events[place] = self.mutate(events[place])
        return encode_events(events, done=not self._anthropic)

    def _headers(self, *, streamed: bool) -> tuple[tuple[str, str], ...]:
        kind = _EVENTS if streamed else _JSON
        return (kind, self._random.choice(_ODD_HEADERS)) if self._random.random() < 0.3 else (kind,)

    def _whole(self) -> Any:
        return copy.deepcopy(ANTHROPIC_WHOLE if self._anthropic else OPENAI_WHOLE)

    def _events(self) -> list[Any]:
        return copy.deepcopy(ANTHROPIC_EVENTS if self._anthropic else OPENAI_EVENTS)


def good_payload(*, anthropic: bool, streamed: bool) -> Payload:
    if streamed:
        events = ANTHROPIC_EVENTS if anthropic else OPENAI_EVENTS
        return Payload(200, (_EVENTS,), encode_events(events, done=not anthropic))
    return Payload(200, (_JSON,), encode(ANTHROPIC_WHOLE if anthropic else OPENAI_WHOLE))
