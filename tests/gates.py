"""A door in front of a store: closed, it ends every connection and takes no new one, and the store keeps what it has. What comes
back through it can be slow."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Gate:
    """Relays a port of loopback to another one. Open it before its first use; `port` then stays the same."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.delay_seconds = 0.0
        self._target = target
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()

    @property
    def is_open(self) -> bool:
        return self._server is not None

    async def open(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Returns when every connection has ended."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)
        await server.wait_closed()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            try:
                there = asyncio.create_task(self._pump(reader, far_writer))
                back = asyncio.create_task(self._pump(far_reader, writer, is_slow=True))
                try:
                    await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    there.cancel()
                    back.cancel()
            finally:
                far_writer.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._relays.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_slow: bool = False) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if is_slow and self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                writer.write(data)
                await writer.drain()
