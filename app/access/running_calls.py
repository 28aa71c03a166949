"""The paid calls of this process, by the key they were made with. A key's calls can be cancelled together with the key.

A call that begins after its key was cancelled is cancelled at once, because its key may have been checked long before its body
arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID


class RunningCalls:
    def __init__(self) -> None:
        self._cancels: dict[UUID, dict[object, Callable[[], object]]] = {}
        self._cancelled: set[UUID] = set()
        """Entries are never removed. Only an operator adds one."""

    @contextmanager
    def running(self, key_id: UUID, cancel: Callable[[], object]) -> Iterator[None]:
        """Inside the block this call belongs to the key's calls. `cancel` must not block and may be called several times."""
        call = object()
        self._cancels.setdefault(key_id, {})[call] = cancel
        try:
            if key_id in self._cancelled:
                cancel()
            yield
        finally:
            calls = self._cancels[key_id]
            del calls[call]
            if not calls:
                del self._cancels[key_id]

    def cancel(self, key_id: UUID) -> None:
        """Cancels every call of the key, also those that begin later."""
        self._cancelled.add(key_id)
        for cancel in tuple(self._cancels.get(key_id, {}).values()):
            cancel()

    def is_cancelled(self, key_id: UUID) -> bool:
        return key_id in self._cancelled
