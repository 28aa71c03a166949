"""Reads server-sent events. Only the `data` of each event is used, because both wire protocols repeat the event's name in it."""

from __future__ import annotations

from app.llm.providers.wire_text import BYTE_ORDER_MARK

MAX_EVENT_BYTES = 16 * 1024 * 1024
EVENT_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b"error:", b":")
"""The prefixes of a line of an event stream."""


class EventTooLarge(ValueError):
    pass


class SseReader:
    """Turns chunks of a body into the payloads of whole events. Accepts LF, CRLF and CR, comments and other fields."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Returns the payloads that became complete with this chunk. Raises EventTooLarge. A CR at the end of a chunk waits for
        the next byte, because it may be half of a CRLF."""
        cut = max(chunk.rfind(b"\n"), chunk.rfind(b"\r", 0, len(chunk) - 1)) + 1
        if not cut:
            self._pieces.append(chunk)
            self._grow(len(chunk))
            return []
        lines = b"".join((*self._pieces, chunk[:cut]))
        self._pieces = [chunk[cut:]] if cut < len(chunk) else []
        return self._read(lines)

    def flush(self) -> list[bytes]:
        """Returns, at the end of the body, an event without its closing empty line. Some servers leave that line out."""
        lines = b"".join((*self._pieces, b"\n\n"))
        self._pieces = []
        return self._read(lines)

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > MAX_EVENT_BYTES:
            raise EventTooLarge

    def _read(self, lines: bytes) -> list[bytes]:
        if b"\r" in lines:
            lines = lines.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        events: list[bytes] = []
        for line in lines.split(b"\n")[:-1]:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
                self._grow(len(line))
            elif line.startswith(b"error:"):  # llama.cpp's server gives its errors in a field of their own
                self._data.append(b'{"error":' + line[6:] + b"}")
            elif not line and self._data:
                events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data.clear()
                self._size = 0
        return events


class StreamedBody:
    """Returns the payloads of a stream of events, or the whole body if it is one JSON object. A line of an event stream never
    begins with a brace."""

    def __init__(self) -> None:
        self._events = SseReader()
        self._held: bytearray | None = bytearray()
        self._is_object = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Reads as SseReader does. Returns nothing for an object. Raises EventTooLarge."""
        if self._held is None:
            return self._events.feed(chunk)
        if not self._held:
            chunk = chunk.removeprefix(BYTE_ORDER_MARK)
        begin = b"" if self._is_object else chunk.lstrip()
        self._is_object = self._is_object or begin.startswith(b"{")
        self._held += chunk
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
