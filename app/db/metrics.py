"""What `/metrics` shows of PostgreSQL, read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.db.engines import Engines
from app.db.pools import figures_of
from app.db.servers import Server
from app.db.statement_times import BUCKETS


class DatabaseMetrics(Collector):
    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        yield from self._pools()
        yield from self._servers(self._engines.servers.every if self._engines.watch is not None else ())
        yield self._reads()
        yield self._statements()

    def _pools(self) -> Iterator[Metric]:
        connections = GaugeMetricFamily(
            "greenlang_database_connections", "Open connections of this process, by server and use.", labels=["server", "use"]
        )
        waiting = GaugeMetricFamily(
            "greenlang_database_connection_waiters", "Callers that wait for a connection.", labels=["server"]
        )
        refused = CounterMetricFamily(
            "greenlang_database_connection_refusals",
            "Callers that waited for a connection longer than pool_timeout and were refused.",
            labels=["server"],
        )
        for server, engine in self._engines.by_name().items():
            figures = figures_of(engine)
            connections.add_metric([server, "in_use"], figures.in_use)
            connections.add_metric([server, "idle"], figures.idle)
            waiting.add_metric([server], figures.waiting)
            refused.add_metric([server], figures.refused)
        yield from (connections, waiting, refused)

    def _servers(self, watched: Iterable[Server]) -> Iterator[Metric]:
        """A server that is alone has no role here: it is asked as the primary, whatever it is."""
        servers = self._engines.servers
        role = GaugeMetricFamily(
            "greenlang_database_server_role", "1 for the role that a server has for this process.", labels=["server", "role"]
        )
        seconds = GaugeMetricFamily(
            "greenlang_database_lag_seconds",
            "How far a server is behind the newest known moment of the primary.",
            labels=["server"],
        )
        size = GaugeMetricFamily("greenlang_database_lag_bytes", "WAL that a server has not replayed.", labels=["server"])
        failovers = CounterMetricFamily("greenlang_database_failovers", "How often this process has found a new primary.")
        failovers.add_metric([], servers.failovers)
        for server in watched:
            role.add_metric([server.name, server.role.name.lower()], 1)
            lag, lag_bytes = servers.lag(server), servers.lag_bytes(server)
            if lag is not None:
                seconds.add_metric([server.name], lag.total_seconds())
            if lag_bytes is not None:
                size.add_metric([server.name], lag_bytes)
        yield from (role, seconds, size, failovers)

    def _reads(self) -> Metric:
        reads = CounterMetricFamily(
            "greenlang_database_reads",
            "Sessions that only read, by the server that answered and its role.",
            labels=["server", "role"],
        )
        for server in self._engines.servers.every:
            for role, count in server.answered.items():
                reads.add_metric([server.name, role.name.lower()], count)
        return reads

    def _statements(self) -> Metric:
        family = HistogramMetricFamily(
            "greenlang_database_statement_seconds",
            "Seconds from sending a statement to its answer, by name.",
            labels=["statement"],
        )
        bounds = [*map(str, BUCKETS), "+Inf"]
        for name, durations in sorted(self._engines.times.by_name.items()):
            family.add_metric([name], list(zip(bounds, accumulate(durations.counts), strict=True)), durations.seconds)
        return family
