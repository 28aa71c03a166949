"""The cache's figures: what a hit costs, how often one is given, and how much memory it takes.

    python -m benchmarks.cache [--row NAME ...]

Each row runs what it compares in turns, in one run. A row with a ratio above its bound makes the exit status 1; the aims are
only printed. Milliseconds are printed beside, and never judged.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks import cache_calls, cache_memory, cache_origins, cache_tiers, labels
from benchmarks.overspend import private_database

LABEL_ROWS = 5_000_000


@dataclass(frozen=True, slots=True)
class Figure:
    """`is_floor`: the figure must be at least `bound`, else at most."""

    name: str
    value: float
    bound: float
    aim: float | None = None
    is_floor: bool = False

    @property
    def holds(self) -> bool:
        return self._reaches(self.bound)

    def show(self) -> None:
        aimed = "" if self.aim is None else f", aim {self.aim:g} {'reached' if self._reaches(self.aim) else 'missed'}"
        sign = ">=" if self.is_floor else "<="
        print(f"{'ok  ' if self.holds else 'FAIL'} {self.name}: {self.value:.3f} ({sign} {self.bound:g}{aimed})", flush=True)

    def _reaches(self, bound: float) -> bool:
        return self.value >= bound if self.is_floor else self.value <= bound


def calls() -> Iterator[Figure]:
    yield Figure("CPU of a completion from memory, to the same without the cache", cache_calls.measure(), 0.4, 0.2)


def tiers() -> Iterator[Figure]:
    ratios = cache_tiers.measure()
    yield Figure("get of 2 kB from memory, to a raw get of Redis", ratios.memory, 0.1, 0.03)
    yield Figure("get of 2 kB from a Redis tier, to the raw client", ratios.redis, 2, 1.4)
    yield Figure("get of 2 kB from PostgreSQL, to asyncpg", ratios.postgres, 2, 1.4)


def origins() -> Iterator[Figure]:
    with cache_origins.fleet() as processes:
        yield Figure("origin calls of 1,000 misses of one prompt at once", cache_origins.measure_at_once(processes), 1)
        zipf = cache_origins.measure_zipf(processes)
    yield Figure(f"hit rate over Zipf (at most {zipf.max_hit_rate:.3f})", zipf.hit_rate, 0.8, 0.9, is_floor=True)
    yield Figure("origin calls for each distinct prompt", zipf.calls_a_prompt, 1.05, 1.0)


def memory() -> Iterator[Figure]:
    yield Figure("growth of a process, to the bytes of its memory tier", cache_memory.measure(), 2, 1.5)


def label_roll_ups() -> Iterator[Figure]:
    with private_database() as url:
        ratio = asyncio.run(labels.run(url, LABEL_ROWS))[0].ratio
    yield Figure("cost by label of 30 days, to the same from records", ratio, labels.MAX_RATIO, labels.STRETCH)


ROWS: dict[str, Callable[[], Iterator[Figure]]] = {
    "calls": calls,
    "tiers": tiers,
    "origins": origins,
    "memory": memory,
    "labels": label_roll_ups,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", choices=list(ROWS), help="only this row; may be given again")
    holds = True
    for name in parser.parse_args().row or ROWS:
        for figure in ROWS[name]():
            figure.show()
            holds = holds and figure.holds
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
