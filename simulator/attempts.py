"""A log of what the simulator received. An entry gets its number when a call arrives, and is in the file before the answer's
last byte is sent."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from simulator.models import ProviderName
from simulator.structured import Json

State: TypeAlias = Literal["open", "completed", "aborted", "disconnected"]
_KEPT = 50_000
_CORRELATING = frozenset(
    {
        b"idempotency-key",
        b"x-request-id",
        b"x-client-request-id",
        b"traceparent",
        b"user-agent",
        b"x-stainless-retry-count",
        b"anthropic-version",
        b"anthropic-beta",
    }
)


class Entry(msgspec.Struct, kw_only=True):
    """One attempt.

    `state`: the whole answer was sent (also an error status), a fault broke it off, or the client left. `usage` is the
    provider's own block for what it billed. If `usage_sent` is true, the client got exactly these bytes.
    """

    sequence: int
    at: datetime
    provider: ProviderName
    operation: str
    path: str
    model: str | None = None
    stream: bool = False
    status: int | None = None
    request_id: str
    key: str | None = None
    headers: dict[str, str] = {}
    user: str | None = None
    body_hash: str = ""
    fault: str | None = None
    billed: bool = False
    usage: dict[str, Json] | None = None
    usage_sent: bool = False
    output_tokens: int = 0
    state: State = "open"
    duration_ms: float = 0.0


class Totals(msgspec.Struct):
    """The totals of one model: the number of attempts that ended, how they ended, and the sums of every figure in the billed
    usage blocks."""

    attempts: int = 0
    answered: int = 0
    errors: int = 0
    aborted: int = 0
    disconnected: int = 0
    billed: int = 0
    usage: dict[str, int] = {}


class AttemptLog:
    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._encoder = msgspec.json.Encoder()
        self._entries: deque[Entry] = deque(maxlen=_KEPT)
        self._totals: dict[tuple[str, str], Totals] = {}
        self._sequence = 0

    def next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def opened(self, entry: Entry) -> None:
        self._entries.append(entry)

    def ended(self, entry: Entry, state: State, duration_ms: float) -> None:
        """Appends the line to the file."""
        entry.state = state
        entry.duration_ms = round(duration_ms, 3)
        if self._file is not None:
            os.write(self._file, self._encoder.encode(entry) + b"\n")
        self._count(entry)

    def after(self, sequence: int, limit: int) -> list[Entry]:
        """Returns the oldest entries first, also open ones."""
        first = self._entries[0].sequence if self._entries else 0
        return [*islice(self._entries, max(0, sequence + 1 - first), max(0, sequence + 1 - first) + limit)]

    def totals(self) -> dict[str, dict[str, Totals]]:
        grouped: dict[str, dict[str, Totals]] = {}
        for (provider, model), totals in self._totals.items():
            grouped.setdefault(provider, {})[model] = totals
        return grouped

    def clear(self) -> None:
        """Clears the memory and empties the file. Numbers continue."""
        self._entries.clear()
        self._totals.clear()
        if self._file is not None:
            os.ftruncate(self._file, 0)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _count(self, entry: Entry) -> None:
        totals = self._totals.get((entry.provider, entry.model or ""))
        if totals is None:
            totals = self._totals[entry.provider, entry.model or ""] = Totals()
        totals.attempts += 1
        totals.aborted += entry.state == "aborted"
        totals.disconnected += entry.state == "disconnected"
        if entry.state == "completed":
            failed = entry.status is None or entry.status >= 400
            totals.errors += failed
            totals.answered += not failed
        if entry.billed:
            totals.billed += 1
            for name, value in _figures(entry.usage or {}):
                totals.usage[name] = totals.usage.get(name, 0) + value


def correlating(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in headers
        if name in _CORRELATING or name.startswith(b"x-greenlang-")
    }


@lru_cache(maxsize=1024)
def fingerprint(key: str) -> str:
    """Distinguishes keys without showing one."""
    return hashlib.blake2b(key.encode(), digest_size=6).hexdigest()


def now() -> datetime:
    return datetime.now(UTC)


def _figures(usage: dict[str, Json], prefix: str = "") -> Iterable[tuple[str, int]]:
    for name, value in usage.items():
        if isinstance(value, dict):
            yield from _figures(value, f"{prefix}{name}.")
        elif isinstance(value, int):
            yield f"{prefix}{name}", value


def body_hash(raw: bytes) -> str:
    """Equal for two calls with the same body."""
    return hashlib.blake2b(raw, digest_size=8).hexdigest() if raw else ""
