"""Reads the frames that a client of graphql-transport-ws sends, strictly."""

from __future__ import annotations

import msgspec
from starlette.types import Message

_MAX_ID_LENGTH = 256
_MAX_PING_LENGTH = 1024
_MAX_HEAD_BYTES = 4096


class ProtocolBroken(Exception):
    """The client broke the protocol. The socket is closed with `code`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Frame(msgspec.Struct):
    type: str
    id: str | None = None
    payload: msgspec.Raw = msgspec.Raw()


_decoder = msgspec.json.Decoder(Frame)
_fields_decoder: msgspec.json.Decoder[dict[str, object] | None] = msgspec.json.Decoder(dict[str, object] | None)


def read_frame(message: Message) -> Frame:
    """Raises ProtocolBroken for anything that is no message of the protocol."""
    text: str | None = message.get("text")
    if text is None:
        raise ProtocolBroken(4400, "frames are text")
    return decode_frame(text)


def read_head(raw: bytes) -> Frame:
    """Reads a frame without its payload. The payload must come last, as all known clients send it. Raises ProtocolBroken."""
    head, _, _ = raw[:_MAX_HEAD_BYTES].partition(b'"payload"')
    return decode_frame(head + b'"payload":null}')


def decode_frame(text: str | bytes) -> Frame:
    """Raises ProtocolBroken."""
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        raise ProtocolBroken(4400, "Invalid message received") from None


def pong_to(ping: Frame) -> str:
    """Returns a pong with the payload of the ping. Raises ProtocolBroken."""
    given = bytes(ping.payload).decode()
    if len(given) > _MAX_PING_LENGTH:
        raise ProtocolBroken(4400, "the payload of a ping is too long")
    fields_of(ping)
    return f'{{"type":"pong","payload":{given}}}' if given else '{"type":"pong"}'


def id_of(frame: Frame) -> str:
    """Raises ProtocolBroken."""
    if not frame.id or len(frame.id) > _MAX_ID_LENGTH:
        raise ProtocolBroken(4400, f"{frame.type} needs an id of 1 to {_MAX_ID_LENGTH} characters")
    return frame.id


def fields_of(frame: Frame) -> dict[str, object]:
    """Returns the fields of the frame's payload, which may be missing. Raises ProtocolBroken."""
    try:
        return _fields_decoder.decode(frame.payload) or {} if frame.payload else {}
    except (msgspec.MsgspecError, RecursionError, ValueError):
        raise ProtocolBroken(4400, "the payload is no object") from None
