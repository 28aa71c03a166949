"""Reads server-sent events as the HTML standard does. Only the `data` of each event is used, because both wire protocols repeat
the event's name in it. An event named `error` is the exception: its data becomes the `error` of an object, unless it already is
one.

The standard decides on line ends (LF, CRLF or CR, cut anywhere), the byte order mark, comments, unknown fields and data of
several lines. Two things differ: an event with empty data is ignored, and the last event needs no closing empty line.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from app.llm.providers.wire_text import BYTE_ORDER_MARK, Malformed, decode_loosely

MAX_EVENT_BYTES = 16 * 1024 * 1024
EVENT_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b"error:", b":")
"""The prefixes of a line of an event stream."""
_ERROR = b"error"


class EventTooLarge(ValueError):
    pass


class SseReader:
    """Turns chunks of a body into the payloads of whole events."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._pieces_size = 0
        self._data: list[bytes] = []
        self._data_size = 0
        self._name = b""
        self._is_first = True
        self._ends_in_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Returns the payloads that became complete with this chunk. Raises EventTooLarge."""
        if self._ends_in_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._ends_in_cr = False
        cut = max(chunk.rfind(b"\n"), chunk.rfind(b"\r")) + 1
        if not cut:
            self._pieces.append(chunk)
            self._pieces_size += len(chunk)
            self._check_size()
            return []
        self._ends_in_cr = chunk.endswith(b"\r")
        lines = b"".join((*self._pieces, chunk[:cut]))
        self._pieces = [chunk[cut:]] if cut < len(chunk) else []
        self._pieces_size = len(chunk) - cut
        return self._read(lines)

    def flush(self) -> list[bytes]:
        """Returns, at the end of the body, an event without its closing empty line. Some servers leave that line out."""
        lines = b"".join((*self._pieces, b"\n\n"))
        self._pieces, self._pieces_size = [], 0
        return self._read(lines)

    def _check_size(self) -> None:
        if self._pieces_size + self._data_size > MAX_EVENT_BYTES:
            raise EventTooLarge

    def _read(self, lines: bytes) -> list[bytes]:
        if self._is_first:
            lines = lines.removeprefix(BYTE_ORDER_MARK)
            self._is_first = False
        if b"\r" in lines:
            lines = lines.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        events: list[bytes] = []
        for line in lines.split(b"\n")[:-1]:
            if not line:
                self._dispatch(events)
            elif line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
                self._data_size += len(line)
                self._check_size()
            elif line.startswith(b"error:"):  # llama.cpp's server gives its errors in a field of their own
                self._name = _ERROR
                self._data.append(line[6:])
            elif line.startswith(b"event:"):
                self._name = line[6:].removeprefix(b" ")
            elif line == b"data":
                self._data.append(b"")
        return events

    def _dispatch(self, events: list[bytes]) -> None:
        if self._data:
            payload = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            if self._name == _ERROR:
                events.append(_error_payload(payload))
            elif payload and not payload.isspace():
                events.append(payload)
            self._data.clear()
        self._data_size = 0
        self._name = b""


def _error_payload(data: bytes) -> bytes:
    """An object that has an `error`, or has the type `error`, whatever the event contains."""
    try:
        said = decode_loosely(data)
    except Malformed:
        said = data.decode("utf-8", "replace").strip()
    if isinstance(said, Mapping) and (said.get("error") or said.get("type") == "error"):
        return data
    return msgspec.json.encode({"error": said or {"type": "error"}})


class StreamedBody:
    """Returns the payloads of a stream of events, or the whole body if it is one JSON object. A line of an event stream never
    begins with a brace."""

    def __init__(self) -> None:
        self._events = SseReader()
        self._held: bytearray | None = bytearray()
        self._has_begun = False
        self._is_object = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Reads as SseReader does. Returns nothing for an object. Raises EventTooLarge."""
        if self._held is None:
            return self._events.feed(chunk)
        self._held += chunk
        if not self._has_begun:
            if BYTE_ORDER_MARK.startswith(bytes(self._held[: len(BYTE_ORDER_MARK) + 1])):
                return []
            self._has_begun = True
            chunk = bytes(self._held.removeprefix(BYTE_ORDER_MARK))
        begin = b"" if self._is_object else chunk.lstrip()
        self._is_object = self._is_object or begin.startswith(b"{")
        if self._is_object or not begin:
            if len(self._held) > MAX_EVENT_BYTES:
                raise EventTooLarge
            return []
        chunk, self._held = bytes(self._held), None
        return self._events.feed(chunk)

    def flush(self) -> list[bytes]:
        return self._events.flush()

    @property
    def document(self) -> bytes:
        """The object. It is empty if the body is a stream of events."""
        return bytes(self._held or b"")
