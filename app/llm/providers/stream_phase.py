"""What a streamed answer waits for as it goes on, and for how long when it is complete."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    """In `MAYBE_IDLE` the answer is complete, but more of it may come."""

    FIRST = "the first token"
    IDLE = "the next token"
    MAYBE_IDLE = "another token, if there is one"
    COMPLETE = "the usage of a complete answer"
    BILLED = "the terminal event alone"


GRACES = {Phase.COMPLETE: 1.0, Phase.BILLED: 0.25}
"""In seconds."""


@dataclass(frozen=True, slots=True)
class FirstTokenWait:
    """The two limits for the first token, in the Clock's monotonic seconds: of the target and of the call."""

    timeout_at: float
    deadline: float
