"""Covers a span of time with roll-ups of whole days, hours and quarters. Only its ends need raw records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

DAY, HOUR, QUARTER = 1440, 60, 15
"""The grains of the roll-ups, in minutes of UTC."""

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_SAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Segment:
    """[start, end). `grain` is None if only raw records are exact."""

    grain: int | None
    start: datetime
    end: datetime


def cover(start: datetime, end: datetime, grains: Sequence[int]) -> Iterator[Segment]:
    """Returns segments in order that together cover [start, end): the coarsest grains inside, finer ones at the ends."""
    if start >= end:
        return
    if not grains:
        yield Segment(None, start, end)
        return
    grain, finer = grains[0], grains[1:]
    first, last = _ceiling(start, grain), _floor(end, grain)
    if first >= last:
        yield from cover(start, end, finer)
        return
    yield from cover(start, first, finer)
    yield Segment(grain, first, last)
    yield from cover(last, end, finer)


def cover_except(
    start: datetime, end: datetime, grains: Sequence[int], gaps: Sequence[tuple[datetime, datetime]]
) -> list[Segment]:
    """Returns segments as `cover` does, with raw records for the gaps. `gaps` are in order and do not overlap."""
    found, at = list[Segment](), start
    for gap_start, gap_end in gaps:
        first, last = max(at, min(gap_start, end)), max(at, min(gap_end, end))
        found += cover(at, first, grains)
        if first < last:
            found.append(Segment(None, first, last))
        at = last
    found += cover(at, end, grains)
    return _join_raw(found)


def _join_raw(segments: Sequence[Segment]) -> list[Segment]:
    joined: list[Segment] = []
    for segment in segments:
        if joined and segment.grain is None and joined[-1].grain is None:
            joined[-1] = Segment(None, joined[-1].start, segment.end)
        else:
            joined.append(segment)
    return joined


def grains_within(zone: ZoneInfo, start: datetime, end: datetime, *, hours: bool) -> tuple[int, ...]:
    """Returns the grains that never cross a local midnight of the zone in that span (or, with `hours`, the start of a local
    hour)."""
    step = max(timedelta(days=1), (end - start) / _SAMPLES)
    offsets = {_offset(zone, end)}
    moment = start
    while moment < end:
        offsets.add(_offset(zone, moment))
        moment += step
    if any(offset % timedelta(minutes=QUARTER) for offset in offsets):
        return ()
    if any(offset % timedelta(minutes=HOUR) for offset in offsets):
        return (QUARTER,)
    if hours or any(offsets):
        return (HOUR, QUARTER)
    return (DAY, HOUR, QUARTER)


def _offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta(0)


def _floor(moment: datetime, grain: int) -> datetime:
    return moment - (moment - _EPOCH) % timedelta(minutes=grain)


def _ceiling(moment: datetime, grain: int) -> datetime:
    floor = _floor(moment, grain)
    return floor if floor == moment else floor + timedelta(minutes=grain)
