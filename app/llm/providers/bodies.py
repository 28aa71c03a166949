"""What was received of an answer: its head, its body as it was sent, and what is kept of an error or of an answer that broke
off."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import httpx2

from app.domain.errors import FailureKind, ProviderError
from app.llm.providers.sse import EVENT_FIELDS
from app.llm.refused_parameters import Refusal


@dataclass(frozen=True, slots=True)
class Begun:
    """An answer whose head has arrived, and what was received of its body, as it was sent."""

    response: httpx2.Response
    received: bytearray

    @property
    def body(self) -> bytes:
        """The body, decoded unless the server has named a wrong encoding."""
        sent = bytes(self.received)
        encoding = self.response.headers.get("content-encoding")
        if encoding is None:
            return sent
        try:
            return httpx2.Response(200, headers={"content-encoding": encoding}, content=sent).content
        except httpx2.DecodingError:
            return sent


class ErrorAnswer(ProviderError):
    """An answer with an error status. `billed` is the usage that it reports; nothing else of it is kept."""

    billed: Mapping[str, object] = MappingProxyType({})


class ParameterRefused(ErrorAnswer):
    """A refusal that names one parameter which this model does not take, and which can be left out."""

    def __init__(self, refusal: Refusal, status_code: int, provider_request_id: str | None) -> None:
        super().__init__(FailureKind.UNSUPPORTED, status_code=status_code, provider_request_id=provider_request_id)
        self.parameter = refusal.parameter
        self.of_value = refusal.of_value


class BrokenAnswer(ProviderError):
    """A whole answer that began and broke off: what was received, and in what time."""

    def __init__(self, kind: FailureKind, begun: Begun, seconds: float, provider_request_id: str | None) -> None:
        super().__init__(kind, status_code=begun.response.status_code, provider_request_id=provider_request_id)
        self.begun = begun
        self.seconds = seconds


def chunks_of(response: httpx2.Response) -> AsyncIterator[bytes]:
    """Chunks as they come from the transport. They are decoded only if the server uses an encoding although it was asked not
    to."""
    source = aiter(cast("httpx2.AsyncByteStream", response.stream))
    encoding = response.headers.get("content-encoding")
    return source if encoding is None else _decoded(source, encoding)


async def _decoded(source: AsyncIterator[bytes], encoding: str) -> AsyncGenerator[bytes, None]:
    """The chunks of a body with a named encoding. A server may name an encoding that its body does not have."""
    first = await anext(source, b"")
    if first.lstrip().startswith((b"{", *EVENT_FIELDS)):
        yield first
        async for chunk in source:
            yield chunk
        return
    encoded = httpx2.Response(200, headers={"content-encoding": encoding}, stream=_Resumed(first, source))
    async for chunk in encoded.aiter_bytes():
        yield chunk


class _Resumed(httpx2.AsyncByteStream):
    """A body whose first chunk was read."""

    def __init__(self, first: bytes, rest: AsyncIterator[bytes]) -> None:
        self._first = first
        self._rest = rest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._first
        async for chunk in self._rest:
            yield chunk
