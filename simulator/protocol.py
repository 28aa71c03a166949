"""What the server needs of a provider's protocol, and the classes that both use."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple, Protocol

from simulator.answers import Answer, Ask
from simulator.faults import Fault
from simulator.models import ProviderName
from simulator.structured import Json


class Rejected(Exception):
    """The provider answers with an error and bills nothing. The protocol replaces empty words by those for the status."""

    def __init__(
        self, status: int, message: str = "", *, kind: str | None = None, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param


class FrameKind(Enum):
    HEAD = "head"
    DELTA = "delta"
    CLOSING = "closing"


class Frame(NamedTuple):
    """One event of a stream. `tokens` is the number of tokens generated up to this event. Only deltas have any."""

    data: bytes
    tokens: int
    kind: FrameKind = FrameKind.HEAD


class Dialect(Protocol):
    @property
    def name(self) -> ProviderName: ...

    @property
    def request_id_header(self) -> bytes: ...

    def parse(self, body: bytes, key: str, version: str) -> Ask:
        """`version` is the API version in the client's header; empty if there is none. Raises Rejected."""
        ...

    def rejection(self, rejected: Rejected, request_id: str) -> bytes: ...

    def usage(self, ask: Ask, answer: Answer, output_tokens: int) -> dict[str, Json]:
        """The usage block as this provider bills it after so many tokens."""
        ...

    def body(self, ask: Ask, answer: Answer, answer_id: str, fault: Fault) -> bytes: ...

    def frames(self, ask: Ask, answer: Answer, answer_id: str, fault: Fault) -> Iterator[Frame]: ...

    def stream_error(self, rejected: Rejected, request_id: str) -> bytes: ...

    def malformed_frame(self) -> bytes: ...
