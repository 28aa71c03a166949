"""What goes wrong, and when. Steps are posted, named in a header, or named after the model's name.

Steps are used in the order in which they were posted. The first one that matches a call is used, and its count is reduced by
one.
"""

from __future__ import annotations

import random
import time
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

import msgspec

from simulator.models import ProviderName
from simulator.quoting import Quotes
from simulator.structured import Json

Operation: TypeAlias = Literal["completion", "embedding", "models", "count_tokens"]
Fault: TypeAlias = Literal[
    "none",
    "status",
    "context_too_long",
    "reset",
    "disconnect",
    "silent",
    "stall",
    "cut",
    "truncate",
    "malformed",
    "stream_error",
    "no_done",
    "no_usage",
    "no_finish_reason",
    "content_filter",
    "prompt_filter",
    "refusal",
    "wrong_schema",
    "not_json",
    "huge",
    "empty",
    "nul",
    "surrogate",
]
HUGE_TOKENS = 50_000


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What the model is to answer. Everything that is left out is derived from the request. OpenAI's own models never show
    their thinking. With `thinking_field` they do, as compatible servers do under that name."""

    text: str | None = None
    tokens: int | None = None
    thinking_tokens: int | None = None
    thinking_field: Literal["reasoning_content", "reasoning"] | None = None
    tool: str | None = None
    calls: int = 1
    json: Json = None
    quotes: Quotes = "true"


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One line of a scenario. Without `count` it lasts for ever. `share` is the part of the matching calls that it affects.

    `after_tokens` is where a mid-stream fault acts; 0 is after the headers and before the first token. `fault_delay_ms` passes
    before it acts, so the client reads what came before by itself. `stall_ms` ends a silence or a stall (by default after an
    hour), and keeps a stream without its `no_done` end open for that long. Times are milliseconds; `retry_after` and
    `retry_after_date` are seconds from now. `lasts_ms` counts from the posting.
    """

    fault: Fault = "none"
    count: int | None = 1
    share: float = 1.0
    lasts_ms: float | None = None
    provider: ProviderName | None = None
    model: str | None = None
    operation: Operation | None = None
    stream: bool | None = None
    key: str | None = None

    status: int = 500
    headers: dict[str, str] = {}
    body: Json = None
    error_type: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    retry_after: float | None = None
    retry_after_ms: float | None = None
    retry_after_date: float | None = None

    headers_delay_ms: float | None = None
    first_token_delay_ms: float | None = None
    token_delay_ms: float | None = None
    after_tokens: int = 0
    fault_delay_ms: float = 0.0
    stall_ms: float | None = None
    billed: bool | None = None
    answer: Said | None = None


_STATUSES = (400, 401, 402, 403, 404, 408, 409, 413, 422, 500, 502, 503, 504, 529)
PRESETS: dict[str, Step] = {
    **{f"status-{status}": Step(fault="status", status=status) for status in _STATUSES},
    "rate-limited": Step(fault="status", status=429, retry_after=1),
    "rate-limited-ms": Step(fault="status", status=429, retry_after_ms=250),
    "rate-limited-date": Step(fault="status", status=429, retry_after_date=2),
    "rate-limited-bare": Step(fault="status", status=429),
    "quota": Step(fault="status", status=429, error_type="insufficient_quota", error_code="insufficient_quota"),
    "overloaded": Step(fault="status", status=529),
    "context-too-long": Step(fault="context_too_long"),
    "reset": Step(fault="reset"),
    "disconnect": Step(fault="disconnect"),
    "disconnect-billed": Step(fault="disconnect", billed=True),
    "silent": Step(fault="silent"),
    "slow-headers": Step(headers_delay_ms=2_000),
    "slow-first-token": Step(first_token_delay_ms=2_000),
    "slow-drip": Step(token_delay_ms=200),
    "stall": Step(fault="stall", after_tokens=8),
    "stall-first": Step(fault="stall"),
    "cut": Step(fault="cut", after_tokens=8),
    "cut-first": Step(fault="cut"),
    "truncate": Step(fault="truncate", after_tokens=8),
    "malformed": Step(fault="malformed", after_tokens=8),
    "stream-error": Step(fault="stream_error", after_tokens=8),
    "stream-error-first": Step(fault="stream_error"),
    "no-done": Step(fault="no_done"),
    "no-usage": Step(fault="no_usage"),
    "no-finish-reason": Step(fault="no_finish_reason"),
    "content-filter": Step(fault="content_filter"),
    "prompt-filter": Step(fault="prompt_filter"),
    "refusal": Step(fault="refusal"),
    "wrong-schema": Step(fault="wrong_schema"),
    "not-json": Step(fault="not_json"),
    "huge": Step(fault="huge"),
    "empty": Step(fault="empty"),
    "nul": Step(fault="nul"),
    "surrogate": Step(fault="surrogate"),
}
NO_FAULT = Step()


class UnknownFault(Exception):
    pass


def preset(name: str) -> Step:
    """Raises UnknownFault."""
    try:
        return PRESETS[name]
    except KeyError:
        raise UnknownFault(f"there is no fault `{name}`; there are: {', '.join(sorted(PRESETS))}") from None


class _Waiting:
    __slots__ = ("left", "step", "until")

    def __init__(self, step: Step) -> None:
        self.step = step
        self.left = step.count
        self.until = None if step.lasts_ms is None else time.monotonic() + step.lasts_ms / 1000


class Scenario:
    """The steps that wait for calls. Whether `share` applies is drawn from a seeded generator, so a run can be repeated."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311 -- chance of a fault, not a secret
        self._waiting: list[_Waiting] = []

    def post(self, steps: list[Step]) -> None:
        self._waiting.extend(_Waiting(step) for step in steps)

    def clear(self, provider: str | None = None) -> None:
        self._waiting = [waiting for waiting in self._waiting if provider and waiting.step.provider != provider]
        self._random.seed(self._seed)

    def waiting(self) -> list[Step]:
        self._drop_used_up()
        return [msgspec.structs.replace(waiting.step, count=waiting.left) for waiting in self._waiting]

    def take(self, provider: ProviderName, operation: Operation, model: str, *, stream: bool, key: str) -> Step:
        if not self._waiting:
            return NO_FAULT
        self._drop_used_up()
        for waiting in self._waiting:
            if _fits(waiting.step, provider, operation, model, stream=stream, key=key) and self._drawn(waiting.step):
                if waiting.left is not None:
                    waiting.left -= 1
                return waiting.step
        return NO_FAULT

    def _drawn(self, step: Step) -> bool:
        return step.share >= 1 or self._random.random() < step.share

    def _drop_used_up(self) -> None:
        now = time.monotonic()
        self._waiting = [
            waiting for waiting in self._waiting if waiting.left != 0 and (waiting.until is None or waiting.until > now)
        ]


def _fits(step: Step, provider: str, operation: str, model: str, *, stream: bool, key: str) -> bool:
    wanted = (
        (step.provider, provider),
        (step.operation, operation),
        (step.stream, stream),
        (step.key, key),
    )
    return all(want is None or want == had for want, had in wanted) and (step.model is None or fnmatchcase(model, step.model))
