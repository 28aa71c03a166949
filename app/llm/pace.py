"""How long the next piece of a stream may wait for more to go with it.

A core carries a bounded number of events a second, and readers see no difference: with many streams each is looked after less
often and brings more at a time.
"""

from __future__ import annotations

SHORTEST_WAIT, LONGEST_WAIT = 0.025, 0.5
"""Seconds."""
_SECONDS_PER_STREAM = 0.00025


def waiting_seconds(streams: int) -> float:
    """For one of so many streams that run, or are watched, at once."""
    return min(LONGEST_WAIT, max(SHORTEST_WAIT, streams * _SECONDS_PER_STREAM))
