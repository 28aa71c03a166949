"""docs/failures.md, made from the code: `python -m tests.app.llm.failure_page > docs/failures.md`."""

from __future__ import annotations

import sys

from app.domain.errors import FailureKind, ProviderError
from app.llm.failure_table import TABLE, Row
from app.llm.resilience.failover import moves_on
from app.llm.resilience.retry import asked_again

_HEAD = """# Failures of providers

Made from the code by `python -m tests.app.llm.failure_page > docs/failures.md`.

## What each failure does

*Next key*: another key of the same provider is tried at once. *Next target*: the next target of the route is tried. *Retried*:
the same target is asked again; while another target is left, it is asked twice at most. *Breaker*: the call counts as one failure
of the target, however often it is tried, unless it succeeds there in the end. One and the same prompt counts twice at most in the
breaker's window. A target that was silent for `first_token` is not asked again by the same call, and neither is one that has
given a whole answer, or figures, that are charged: what was paid for is not bought again. *Charged*: an error costs the figures
that it gives itself, whatever its status. If it gives none, this column says what is charged.

"""
_READING = """

## How an error is read

The first row that fits decides. A status is looked at only if the answer has one of its own: an error inside a stream has none.
Codes, types and words are compared in lower case. Words that a message quotes do not count, because they may be the caller's; the
error of a provider that a gateway quotes is read.

"""
_CHARGED = {
    FailureKind.CONNECTION: "an estimate if the request may have arrived",
    FailureKind.FIRST_TOKEN_TIMEOUT: "an estimate",
    FailureKind.IDLE_TIMEOUT: "what came",
    FailureKind.TOTAL_TIMEOUT: "an estimate if the request may have arrived, else what came",
    FailureKind.MALFORMED: "its figures, else what came; an estimate if its head cannot be read; nothing for a page",
    FailureKind.TRUNCATED: "its figures, else what came",
    FailureKind.SCHEMA_MISMATCH: "the provider's figures",
    FailureKind.CANCELLED: "what came",
    FailureKind.UNFORESEEN: "an estimate if an answer had begun",
}
_MOVES = {True: "yes", False: "no"}


def _effect(kind: FailureKind) -> str:
    error = ProviderError(kind)
    cells = (
        kind.value,
        _MOVES[error.concerns_key],
        moves_on(kind),
        asked_again(kind),
        _MOVES[error.counts_for_breaker],
        _CHARGED.get(kind, "nothing"),
    )
    return "| " + " | ".join(cells) + " |"


def _condition(row: Row) -> str:
    found = []
    if row.kinds is not None:
        found.append("kind " + ", ".join(sorted(kind.value for kind in row.kinds)))
    if isinstance(row.statuses, range):
        found.append(f"status {row.statuses.start} to {row.statuses.stop - 1}")
    elif isinstance(row.statuses, frozenset):
        found.append("status " + ", ".join(map(str, sorted(row.statuses))))
    if row.names:
        found.append("code or type " + ", ".join(f"`{name}`" for name in sorted(row.names)))
    if not row.blames_input:
        found.append("no parameter is named")
    if row.words:
        found.append("words " + ", ".join(f'"{word}"' for word in row.words))
    return "; ".join(found) or "anything else"


def render() -> str:
    effects = [
        "| Failure | Next key | Next target | Retried | Breaker | Charged |",
        "|---|---|---|---|---|---|",
        *map(_effect, FailureKind),
    ]
    rows = ["| If | Failure | Source |", "|---|---|---|"]
    rows += [f"| {_condition(row)} | {row.failure.value} | {row.source} |" for row in TABLE]
    return _HEAD + "\n".join(effects) + _READING + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
