"""Metrics that are read from the objects that have the figures, when someone asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from platform import python_version
from typing import TypeAlias

from prometheus_client import CollectorRegistry, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

Read: TypeAlias = Callable[[], Iterable[tuple[Sequence[str], float]]]
"""Returns each value with its labels."""


class ReadMetrics(Collector):
    """Every name has its HELP and TYPE lines, also if there is no value."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._families: list[tuple[type[GaugeMetricFamily | CounterMetricFamily], str, str, Sequence[str], Read]] = []
        registry.register(self)
        Info("greenlang_build", "The version that runs.", registry=registry).info(
            {"version": version("greenlang"), "python": python_version()}
        )

    def gauge(self, name: str, text: str, read: Read, labels: Sequence[str] = ()) -> None:
        self._families.append((GaugeMetricFamily, name, text, labels, read))

    def counter(self, name: str, text: str, read: Read, labels: Sequence[str] = ()) -> None:
        """`read` returns totals that only grow."""
        self._families.append((CounterMetricFamily, name, text, labels, read))

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        for kind, name, text, labels, read in self._families:
            family = kind(name, text, labels=list(labels))
            for values, value in read():
                family.add_metric(list(values), value)
            yield family
