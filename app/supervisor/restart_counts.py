"""How often the supervisor has started server processes again. The processes share this memory, so their metrics show it."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from enum import IntEnum

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

_COUNT = struct.Struct("Q")


class RestartReason(IntEnum):
    DIED = 0
    STUCK = 1


class RestartCounts(Collector):
    """Only the supervisor counts. It must be made before the first fork."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, _COUNT.size * len(RestartReason))

    def add(self, reason: RestartReason) -> None:
        _COUNT.pack_into(self._shared, reason * _COUNT.size, self.count(reason) + 1)

    def count(self, reason: RestartReason) -> int:
        found: int = _COUNT.unpack_from(self._shared, reason * _COUNT.size)[0]
        return found

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "greenlang_process_restarts", "Server processes that the supervisor has started again, by reason.", labels=["reason"]
        )
        for reason in RestartReason:
            family.add_metric([reason.name.lower()], self.count(reason))
        yield family
