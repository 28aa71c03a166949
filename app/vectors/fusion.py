"""Two rankings as one, by reciprocal rank fusion: a chunk gets 1 / (60 + rank) from each ranking that has it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from app.vectors.store import Hit

_RANK_CONSTANT = 60


def fuse(*rankings: Sequence[Hit]) -> list[Hit]:
    """Returns every chunk of the rankings once, best first, ties by key. Scores say nothing beside the order."""
    scores: dict[UUID, float] = defaultdict(float)
    for ranking in rankings:
        for rank, hit in enumerate(ranking, 1):
            scores[hit.key] += 1 / (_RANK_CONSTANT + rank)
    return sorted((Hit(key, score) for key, score in scores.items()), key=lambda hit: (-hit.score, hit.key))
