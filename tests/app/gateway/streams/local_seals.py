"""Seals of one process, as the double of those that processes share."""

from __future__ import annotations

from app.secrets.sealing import Sealer


class LocalSeals:
    """One key, which can be lost."""

    def __init__(self) -> None:
        self.sealing = self.opening = Sealer([bytes(32)])

    async def ready(self) -> None:
        return None

    def seal(self, content: bytes, context: bytes) -> bytes:
        return self.sealing.seal(content, context)

    async def unseal(self, sealed: bytes, context: bytes) -> bytes:
        return self.opening.unseal(sealed, context)

    def lose_key(self) -> None:
        self.opening = Sealer()
