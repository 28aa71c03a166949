"""The reasoning effort that a model is sent: the requested one, or else the nearest lower one that it takes. A model that always
reasons does not take NONE: it is sent its lowest effort.

What a model takes is known, or is learned from its refusals.
"""

from __future__ import annotations

from collections.abc import Set

from app.llm.messages import ReasoningEffort

_ASCENDING = tuple(ReasoningEffort)
_LOWEST = (ReasoningEffort.NONE, ReasoningEffort.MINIMAL, ReasoningEffort.LOW)
ALL_EFFORTS = frozenset(ReasoningEffort)


def refused_effort(effort: ReasoningEffort) -> str:
    """The name of an effort among the parameters that a model has refused."""
    return f"effort {effort.value}"


def settle_effort(asked: ReasoningEffort, untaken: Set[str], taken: Set[ReasoningEffort] = ALL_EFFORTS) -> ReasoningEffort | None:
    """None if the model takes no effort that low."""
    candidates = [*reversed(_ASCENDING[: _ASCENDING.index(asked) + 1])]
    if asked in _LOWEST:
        candidates += _LOWEST
    return next((each for each in candidates if each in taken and refused_effort(each) not in untaken), None)
