"""Streams of both wire protocols in many forms, what becomes of them when they are changed, and what was sent by them.

Every piece of text has a mark of its own, such as «3». Everything is drawn from the Random that is passed in.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any, TypeAlias

from tests.integration.payload_mutations import ODD_VALUES, Payload, changed, paths

Event: TypeAlias = "dict[str, Any] | bytes"

USAGE = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}
DONE = b"[DONE]"
_DEEP = b"[" * 20_000 + b"]" * 20_000
_HARMLESS: tuple[bytes, ...] = (b"null", b"[]", b"7", b"{}", b"ping", b'{"x":NaN}', b'{"x":' + _DEEP + b"}")
_HARMFUL: tuple[bytes, ...] = (
    b'{"choices":[{"index":0,"delta":{"content":"\xc2\xab99\xc2\xbb ',
    b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\xc2\xab99\xc2\xbb ',
    b'{"error":{"message":"The server had an error.","type":"server_error"}}',
    b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}',
    b'{"choices":[{"index":0,"delta":{"content":"\xc2\xab98\xc2\xbb "},"x":' + _DEEP + b"}]}",
    b"{",
)
_AFTER = (" ", " ü ", " 😀 ", " \u2028\u0000 ")
_LINE_ENDS = (b"\n", b"\r\n", b"\r")
_EXTRA_LINES = (b": comment", b"id: 7", b"retry: 500", b"event: message", b"vendor: x")


def words_of(random: Random) -> list[str]:
    return [f"«{number}»{random.choice(_AFTER)}" for number in range(random.randint(1, 6))]


def openai_events(random: Random) -> list[Event]:
    def chunk(delta: Any = None, finish: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
        said = {} if delta is None else {"delta": delta}
        choice = {"index": index, **said, "logprobs": None, "finish_reason": finish, **fields}
        return {"id": "c", "object": "chat.completion.chunk", "model": "some-model", "choices": [choice], "usage": None}

    words, shape = words_of(random), random.choice(_SHAPES)
    always = "stop" if random.random() < 0.15 else None
    pieces: list[Event] = [shape(chunk, words, place, always) for place in range(len(words))]
    events: list[Event] = [chunk({"role": "assistant", "content": ""}), *pieces]
    if random.random() < 0.15:
        events[1:1] = [chunk({"reasoning_content": "I think."})]
    if random.random() < 0.15:
        others: list[Event] = [chunk({"content": "‹other› "}, index=1) for _ in range(2)]
        events = [*events[:2], *others, *events[2:], chunk({}, "stop", index=1)]
    last: dict[str, Any] = {**chunk({}), "choices": [], "usage": USAGE}
    if random.random() < 0.2 and isinstance(events[-1], dict) and events[-1]["choices"][0]["index"] == 0:
        events[-1]["choices"][0]["finish_reason"] = "stop"
    else:
        events.append(chunk({}, "stop"))
    tail: list[list[Event]] = [[last, DONE], [last, DONE], [last], [DONE, last], [DONE], []]
    return [*events, *random.choice(tail)]


def _delta(chunk: Callable[..., Any], words: list[str], place: int, finish: str | None) -> Any:
    return chunk({"content": words[place]}, finish)


def _parts(chunk: Callable[..., Any], words: list[str], place: int, finish: str | None) -> Any:
    return chunk({"content": [{"type": "text", "text": words[place]}]}, finish)


def _message(chunk: Callable[..., Any], words: list[str], place: int, finish: str | None) -> Any:
    return chunk(None, finish, message={"role": "assistant", "content": words[place]})


def _snapshot(chunk: Callable[..., Any], words: list[str], place: int, finish: str | None) -> Any:
    return chunk({}, finish, message={"role": "assistant", "content": "".join(words[: place + 1])})


def _both(chunk: Callable[..., Any], words: list[str], place: int, finish: str | None) -> Any:
    return chunk({"content": words[place]}, finish, message={"role": "assistant", "content": "".join(words[: place + 1])})


def _text(chunk: Callable[..., Any], words: list[str], place: int, finish: str | None) -> Any:
    return chunk(None, finish, text=words[place])


_SHAPES = (_delta, _delta, _delta, _delta, _parts, _message, _snapshot, _both, _text)


def anthropic_events(random: Random) -> list[Event]:
    words, index = words_of(random), 0
    usage = {"input_tokens": 900, "cache_read_input_tokens": 50, "cache_creation_input_tokens": 50, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "some-model", "content": [], "usage": usage}
    events: list[Event] = [{"type": "message_start", "message": message}, {"type": "ping"}]
    if random.random() < 0.2:
        events += _block(0, {"type": "thinking", "thinking": ""}, [{"type": "thinking_delta", "thinking": "I think."}])
        index = 1
    middle = random.randint(1, len(words))
    for some in (words[:middle], words[middle:]):
        start = some.pop(0) if some and random.random() < 0.1 else ""
        events += _block(index, {"type": "text", "text": start}, [{"type": "text_delta", "text": word} for word in some])
        index += 1
    if random.random() < 0.2:
        events.append({"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 3}})
    events.append({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 500}})
    return events if random.random() < 0.15 else [*events, {"type": "message_stop"}]


def _block(index: int, block: dict[str, Any], deltas: Sequence[dict[str, Any]]) -> list[Event]:
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


@dataclass(frozen=True)
class StreamPayload(Payload):
    """`is_harmless`: nothing was changed that an answer needs. The body is sent in the pieces between `cuts`."""

    is_harmless: bool = False
    cuts: tuple[int, ...] = ()

    @property
    def pieces(self) -> Sequence[bytes]:
        return [self.body[start:end] for start, end in pairwise((0, *self.cuts, len(self.body)))]


class StreamMutator:
    def __init__(self, random: Random, *, anthropic: bool) -> None:
        self._random = random
        self._anthropic = anthropic

    def payload(self) -> StreamPayload:
        events = (anthropic_events if self._anthropic else openai_events)(self._random)
        harm = self._random.random()
        self._add_harmless(events)
        if harm > 0.3:
            for _ in range(self._random.randint(1, 3)):
                self._change_events(events)
        body, cut = self._frames(events), False
        if harm > 0.9:
            place = self._random.randrange(len(body))
            cut = self._random.random() < 0.5
            body = body[:place]
        elif harm > 0.85:
            place = self._random.randrange(len(body))
            body = body[:place] + self._random.choice((b"#", b"\xff", b"\\", b'"', b"\x00", b"{")) + body[place + 1 :]
        cuts = sorted(self._random.randrange(len(body) + 1) for _ in range(self._random.randint(0, 12)))
        headers = (("Content-Type", "text/event-stream"),)
        return StreamPayload(200, headers, body, cut=cut, is_harmless=harm <= 0.3, cuts=tuple(cuts))

    def _add_harmless(self, events: list[Event]) -> None:
        while self._random.random() < 0.3:
            events.insert(self._random.randrange(len(events) + 1), self._random.choice(_HARMLESS))

    def _change_events(self, events: list[Event]) -> None:
        """One event is added, left out, doubled, moved or changed, or all change places."""
        place = self._random.randrange(len(events))
        how = self._random.choices(("add", "drop", "double", "move", "shuffle", "field"), weights=(15, 20, 15, 20, 5, 25))[0]
        if how == "add":
            terminal: Event = {"type": "message_stop"} if self._anthropic else DONE
            events.insert(place, self._random.choice((terminal, *_HARMFUL)))
        elif how == "drop" and len(events) > 1:
            del events[place]
        elif how == "double":
            events.insert(self._random.choice((place, len(events))), copy.deepcopy(events[place]))
        elif how == "move":
            events.insert(self._random.randrange(len(events)), events.pop(place))
        elif how == "shuffle":
            self._random.shuffle(events)
        elif isinstance(event := events[place], dict) and (found := list(paths(event))):
            events[place] = changed(event, self._random.choice(found), self._random.choice(ODD_VALUES))

    def _frames(self, events: Sequence[Event]) -> bytes:
        frames = [self._frame(event) for event in events]
        body = b"\n\n".join(frames) + self._random.choice((b"\n\n", b"\n\n", b"\n", b""))
        body = body.replace(b"\n", self._random.choice(_LINE_ENDS))
        return b"\xef\xbb\xbf" + body if self._random.random() < 0.1 else body

    def _frame(self, event: Event) -> bytes:
        if isinstance(event, bytes):
            lines = [event]
        else:
            indent = 0 if self._random.random() < 0.1 else None
            text = json.dumps(event, ensure_ascii=self._random.random() < 0.5, indent=indent)
            lines = text.encode().split(b"\n")
        space = b" " if self._random.random() < 0.8 else b""
        framed = [b"data:" + space + line for line in lines]
        if isinstance(event, dict) and self._anthropic and isinstance(event.get("type"), str):
            framed.insert(0, b"event: " + event["type"].encode().replace(b"error", b"odd"))
        while self._random.random() < 0.1:
            framed.insert(self._random.randrange(len(framed) + 1), self._random.choice(_EXTRA_LINES))
        return b"\n".join(framed)
