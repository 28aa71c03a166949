"""One target with its breaker, its provider's limiter and its provider's retries. It is itself a Provider.

Every try has this order: breaker, hold (`admit`), limiter, send. In whatever way a try ends, it reports to all of them exactly
once. If it was sent, it also reports to `observe`. A stream of which something was shown is started again only if the call asks
for it.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol, TypeVar, cast

from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.errors import FailureKind, GreenLangError, ProviderError, Refused
from app.domain.ids import new_uuid
from app.domain.problems import ProblemCode
from app.domain.usage import RateLimitReport, TokenUsage
from app.llm.failures import unforeseen
from app.llm.messages import Answer, AnswerEnd, EmbedCall, Embedded, ModelCall, StreamPart, fingerprint
from app.llm.metrics import AttemptFinished
from app.llm.provider import Provider
from app.llm.resilience.allowance import ModelAllowance
from app.llm.resilience.breaker import BreakerState, Permit
from app.llm.resilience.limiter import Limiter, Reservation
from app.llm.resilience.retry import Retry
from app.llm.routing import RateLimited, Restarted, RestartReason, Target
from app.runtime.clock import Clock

MAX_TRIES_BEFORE_THE_LAST_TARGET = 6
"""After this many tries, each target that is left is tried only once. The last target is still tried as often as its settings
say."""

_OUTCOMES = {
    FailureKind.RATE_LIMITED: AttemptOutcome.RATE_LIMITED,
    FailureKind.CONNECT_TIMEOUT: AttemptOutcome.TIMED_OUT,
    FailureKind.FIRST_TOKEN_TIMEOUT: AttemptOutcome.TIMED_OUT,
    FailureKind.IDLE_TIMEOUT: AttemptOutcome.TIMED_OUT,
    FailureKind.TOTAL_TIMEOUT: AttemptOutcome.TIMED_OUT,
    FailureKind.CANCELLED: AttemptOutcome.CANCELLED,
}
_REASONS = {
    FailureKind.RATE_LIMITED: ProblemCode.RATE_LIMITED,
    FailureKind.CONNECT_TIMEOUT: ProblemCode.TIMEOUT,
    FailureKind.FIRST_TOKEN_TIMEOUT: ProblemCode.TIMEOUT,
    FailureKind.IDLE_TIMEOUT: ProblemCode.TIMEOUT,
    FailureKind.TOTAL_TIMEOUT: ProblemCode.TIMEOUT,
    FailureKind.BAD_REQUEST: ProblemCode.INVALID_INPUT,
    FailureKind.UNSUPPORTED: ProblemCode.INVALID_INPUT,
    FailureKind.UNKNOWN_REFUSAL: ProblemCode.INVALID_INPUT,
    FailureKind.CONTEXT_TOO_LONG: ProblemCode.CONTEXT_TOO_LONG,
    FailureKind.CONTENT_FILTERED: ProblemCode.CONTENT_FILTERED,
    FailureKind.SCHEMA_MISMATCH: ProblemCode.SCHEMA_MISMATCH,
    FailureKind.CANCELLED: ProblemCode.CANCELLED,
}
_SKIPS = {
    AttemptOutcome.SKIPPED_OPEN_CIRCUIT: ProblemCode.CIRCUIT_OPEN,
    AttemptOutcome.SKIPPED_LIMIT: ProblemCode.RATE_LIMITED,
    AttemptOutcome.SKIPPED_BUDGET: ProblemCode.BUDGET_EXCEEDED,
}
_RESTARTS = {
    FailureKind.CONNECTION: RestartReason.CUT,
    FailureKind.TRUNCATED: RestartReason.CUT,
    FailureKind.IDLE_TIMEOUT: RestartReason.STALLED,
    FailureKind.MALFORMED: RestartReason.MALFORMED,
}
_NEVER_SENT = frozenset({FailureKind.CONNECT_TIMEOUT, FailureKind.POOL_EXHAUSTED})
_PERHAPS_USED = frozenset(
    {FailureKind.FIRST_TOKEN_TIMEOUT, FailureKind.IDLE_TIMEOUT, FailureKind.TOTAL_TIMEOUT, FailureKind.TRUNCATED}
)


class TargetSkipped(GreenLangError):
    """Nothing was sent to this target; another may be tried. `refusal` is what the limiter said."""

    def __init__(self, outcome: AttemptOutcome, refusal: RateLimited | None = None) -> None:
        super().__init__(outcome.value)
        self.outcome = outcome
        self.refusal = refusal


async def _admit_all(_: Target) -> int | None:
    return 0


def _observe_nothing(_: Attempt) -> None:
    pass


@dataclass(slots=True)
class CallContext:
    """The context that one call takes from attempt to attempt and from target to target.

    `admit` is asked before every try. It returns the output cap of the try (0: the call's own), or None if the try is not
    allowed. `is_last_target` is False while another target is left to try. `broken` is the stream that broke after something of
    it was shown. It stays until something of another answer comes.
    """

    tenant: str = ""
    input_tokens: int = 0
    admit: Callable[[Target], Awaitable[int | None]] = _admit_all
    observe: Callable[[Attempt], None] = _observe_nothing
    is_last_target: bool = True
    tries_left: int = MAX_TRIES_BEFORE_THE_LAST_TARGET
    attempts: list[Attempt] = field(default_factory=list)
    broken: Restarted | None = None

    def note_broken(self, kind: FailureKind) -> None:
        """Whether the last attempt has shown something."""
        self.broken = Restarted(self.attempts[-1], _RESTARTS.get(kind, RestartReason.PROVIDER_ERROR))

    @property
    def has_just_broken(self) -> bool:
        return self.broken is not None and self.broken.attempt is self.attempts[-1]

    def take_broken(self) -> Restarted | None:
        broken, self.broken = self.broken, None
        return broken


class GuardBreaker(Protocol):
    """A Breaker of this process, or one that all processes share."""

    @property
    def state(self) -> BreakerState: ...

    @property
    def seconds_to_probe(self) -> float: ...

    async def enter(self, earlier: Permit | None = None) -> Permit | None: ...

    def alive(self, permit: Permit) -> None: ...

    def succeeded(self, permit: Permit) -> None: ...

    def failed(self, permit: Permit, prompt: int | None = None) -> None: ...

    def released(self, permit: Permit) -> None: ...

    async def reset(self) -> None: ...


class _Result(Protocol):
    @property
    def usage(self) -> TokenUsage: ...

    @property
    def status_code(self) -> int: ...

    @property
    def provider_request_id(self) -> str | None: ...

    @property
    def rate_limits(self) -> RateLimitReport | None: ...


Call = TypeVar("Call", ModelCall, EmbedCall)
Result = TypeVar("Result", bound=_Result)
_Step = TypeVar("_Step")


class _Try:
    """One try that was allowed. Only the first report of succeeded, failed, rejected_before_send and abandoned takes effect."""

    __slots__ = (
        "_call",
        "_call_context",
        "_first_token_ms",
        "_guarded",
        "_hold",
        "_is_open",
        "_started",
        "_started_at",
        "_streamed",
        "cap",
        "permit",
    )

    def __init__(
        self,
        guarded: Guarded,
        call: ModelCall | EmbedCall,
        call_context: CallContext,
        permit: Permit,
        *,
        hold: Reservation,
        cap: int,
        streamed: bool,
    ) -> None:
        self._call = call
        self._guarded = guarded
        self._call_context = call_context
        self._hold = hold
        self._streamed = streamed
        self._started_at: datetime = guarded.clock.now()
        self._started = guarded.clock.monotonic()
        self._first_token_ms: float | None = None
        self._is_open = True
        self.cap = cap
        self.permit = permit

    def saw_token(self) -> None:
        if self._first_token_ms is None:
            self._first_token_ms = self._elapsed_ms()
            self._guarded.breaker.alive(self.permit)

    def succeeded(self, result: _Result) -> None:
        self._is_open = False
        self._guarded.breaker.succeeded(self.permit)
        self._hold.settle(result.usage)
        self._apply(result.rate_limits)
        self._report(
            AttemptOutcome.SUCCEEDED,
            status_code=result.status_code,
            request_id=result.provider_request_id,
            usage=result.usage,
        )

    def failed(self, error: ProviderError) -> None:
        self._is_open = False
        kind = error.kind
        if error.counts_for_breaker:
            self._guarded.breaker.failed(self.permit, fingerprint(self._call))
        else:
            self._guarded.breaker.released(self.permit)
        self._settle_failure(error)
        self._apply(error.rate_limits)
        outcome = _OUTCOMES.get(kind, AttemptOutcome.FAILED)
        reason = _REASONS.get(kind, ProblemCode.PROVIDER_ERROR)
        self._report(
            outcome,
            reason=reason,
            kind=kind,
            status_code=error.status_code,
            request_id=error.provider_request_id,
            usage=error.usage,
        )

    def rejected_before_send(self) -> None:
        """The call cannot be expressed for this target: nothing was sent."""
        self._is_open = False
        self._guarded.breaker.released(self.permit)
        self._hold.release()

    def abandoned(self) -> None:
        """The caller left, or the adapter ended without a result. Does nothing after another report."""
        if self._is_open:
            self._is_open = False
            self._guarded.breaker.released(self.permit)
            self._hold.count_in_full()
            self._report(AttemptOutcome.CANCELLED, reason=ProblemCode.CANCELLED)

    def _apply(self, report: RateLimitReport | None) -> None:
        if report is not None:
            self._guarded.allowance.apply(report)

    def _settle_failure(self, error: ProviderError) -> None:
        if error.unanswered_seconds is not None:
            self._hold.count_in_full()
        elif error.usage is not None:
            self._hold.settle(error.usage)
        elif error.kind in _NEVER_SENT:
            self._hold.release()
        elif error.kind in _PERHAPS_USED:
            self._hold.count_in_full()
        else:
            self._hold.refund()

    @property
    def seconds(self) -> float:
        """The seconds since the try was allowed."""
        return self._guarded.clock.monotonic() - self._started

    def _elapsed_ms(self) -> float:
        return self.seconds * 1000

    def _report(
        self,
        outcome: AttemptOutcome,
        *,
        reason: ProblemCode | None = None,
        kind: FailureKind | None = None,
        status_code: int | None = None,
        request_id: str | None = None,
        usage: TokenUsage | None = None,
    ) -> None:
        target = self._guarded.target
        attempt = Attempt(
            new_uuid(self._started_at),
            target.provider,
            target.model,
            outcome,
            self._started_at,
            self._elapsed_ms(),
            status_code,
            reason,
            request_id,
            usage,
        )
        self._guarded.report(attempt, self._call_context, kind, self._first_token_ms, streamed=self._streamed)


class Guarded:
    def __init__(
        self,
        target: Target,
        provider: Provider,
        *,
        breaker: GuardBreaker,
        limiter: Limiter,
        retry: Retry,
        clock: Clock,
        finished: Callable[[AttemptFinished], None],
        allowance: ModelAllowance,
        max_output_tokens: int | None = None,
    ) -> None:
        self.target = target
        self.breaker = breaker
        self.limiter = limiter
        self.allowance = allowance
        self.clock = clock
        self._provider = provider
        self._retry = retry
        self._finished = finished
        self._max_output_tokens = max_output_tokens

    @property
    def name(self) -> str:
        return self._provider.name

    @property
    def kind(self) -> str:
        return self._provider.kind

    async def complete(self, call: ModelCall, call_context: CallContext | None = None) -> Answer:
        """Raises ProviderError when no further try is made here, TargetSkipped if no try was made, and Refused if the call
        cannot be expressed for the target."""
        return await self._run(call, self._provider.complete, call_context or CallContext())

    async def embed(self, call: EmbedCall, call_context: CallContext | None = None) -> Embedded:
        return await self._run(call, self._provider.embed, call_context or CallContext())

    async def stream(self, call: ModelCall, call_context: CallContext | None = None) -> AsyncGenerator[StreamPart, None]:
        """Raises the same errors as `complete`. After the first part an error means that what was shown is not a whole answer.
        If the call asks for it, another try may follow even then. `call_context.broken` is set before the first part of that
        try."""
        call_context = call_context or CallContext()
        current: _Try | None = None
        for tries in itertools.count(1):
            shown = False
            current = await self._enter(call, call_context, current, streamed=True)
            parts = aiter(self._provider.stream(_fit(call, self.target, current.cap, call_context)))
            try:
                while (part := await self._foreseen(anext(parts, None))) is not None:
                    current.saw_token()
                    if isinstance(part, AnswerEnd):
                        current.succeeded(part.answer)
                        yield part
                        return
                    shown = True
                    yield part
                raise ProviderError(FailureKind.TRUNCATED)
            except ProviderError as error:
                current.failed(error)
                if shown:
                    call_context.note_broken(error.kind)
                    if not call.restart:
                        raise
                await self._pause(tries, error, current.seconds, call.deadline, call_context, begins_anew=shown)
            except Refused:
                current.rejected_before_send()
                raise
            finally:
                current.abandoned()
                if isinstance(parts, AsyncGenerator):
                    await parts.aclose()

    async def probe(self) -> None:
        await self._provider.probe()

    async def close(self) -> None:
        """The provider is closed by the code that made it."""

    def seconds_until(self, tokens: int) -> float:
        """About how many seconds a call with so many tokens would wait for room now."""
        return max(self.limiter.seconds_until(tokens), self.allowance.seconds_until(tokens))

    def skip(self, outcome: AttemptOutcome, call_context: CallContext) -> None:
        """Records that nothing was sent here."""
        now = self.clock.now()
        skipped = Attempt(new_uuid(now), self.target.provider, self.target.model, outcome, now, 0.0, reason=_SKIPS[outcome])
        self.report(skipped, call_context, None, None, streamed=False)

    def report(
        self,
        attempt: Attempt,
        call_context: CallContext,
        kind: FailureKind | None,
        first_token_ms: float | None,
        *,
        streamed: bool,
    ) -> None:
        call_context.attempts.append(attempt)
        call_context.observe(attempt)
        self._finished(AttemptFinished(attempt, kind, first_token_ms, streamed))

    async def _run(self, call: Call, send: Callable[[Call], Awaitable[Result]], call_context: CallContext) -> Result:
        current: _Try | None = None
        for tries in itertools.count(1):
            current = await self._enter(call, call_context, current, streamed=False)
            try:
                result = await self._foreseen(send(_fit(call, self.target, current.cap, call_context)))
                current.succeeded(result)
                return result
            except ProviderError as error:
                current.failed(error)
                await self._pause(tries, error, current.seconds, call.deadline, call_context)
            except Refused:
                current.rejected_before_send()
                raise
            finally:
                current.abandoned()
        raise AssertionError("unreachable")

    async def _enter(
        self, call: ModelCall | EmbedCall, call_context: CallContext, before: _Try | None, *, streamed: bool
    ) -> _Try:
        """`before` is the call's previous try at this target."""
        if self.breaker.seconds_to_probe > 0:
            raise self._skipped(AttemptOutcome.SKIPPED_OPEN_CIRCUIT, call_context)
        cap = await call_context.admit(self.target)
        if cap is None:
            raise self._skipped(AttemptOutcome.SKIPPED_BUDGET, call_context)
        if isinstance(call, ModelCall):
            cap = cap or call.max_output_tokens
            cap = cap if self._max_output_tokens is None else min(cap, self._max_output_tokens)
        tokens = self.allowance.reservation(call_context.input_tokens, cap)
        try:
            await self.allowance.take(tokens, call.deadline)
            hold = await self.limiter.acquire(call_context.tenant, tokens, call.deadline)
        except Refused as refused:
            refusal = cast(RateLimited, refused.reason)
            raise self._skipped(AttemptOutcome.SKIPPED_LIMIT, call_context, refusal) from refused
        permit = None
        try:
            permit = await self.breaker.enter(None if before is None else before.permit)
        finally:
            if permit is None:
                hold.release()
        if permit is None:
            raise self._skipped(AttemptOutcome.SKIPPED_OPEN_CIRCUIT, call_context)
        call_context.tries_left -= 1
        if before is None:
            self._retry.budget.request()
        return _Try(self, call, call_context, permit, hold=hold, cap=cap, streamed=streamed)

    async def _foreseen(self, step: Awaitable[_Step]) -> _Step:
        """Any other error of an adapter counts as a failure of its target, so another target may answer."""
        try:
            return await step
        except (ProviderError, Refused):
            raise
        except Exception as error:  # noqa: BLE001  # logged, and reported as the target's failure
            raise unforeseen(error, str(self.target)) from None

    def _skipped(self, outcome: AttemptOutcome, call_context: CallContext, refusal: RateLimited | None = None) -> TargetSkipped:
        self.skip(outcome, call_context)
        return TargetSkipped(outcome, refusal)

    async def _pause(
        self,
        tries: int,
        error: ProviderError,
        seconds: float,
        deadline: float,
        call_context: CallContext,
        *,
        begins_anew: bool = False,
    ) -> None:
        """Waits for the backoff. Raises the error if the target is not tried again."""
        delay, is_last = None, call_context.is_last_target
        if call_context.tries_left > 0 or is_last:
            delay = self._retry.delay(tries, error, deadline, is_last_target=is_last, seconds=seconds, begins_anew=begins_anew)
        if delay is None:
            raise error
        await self.clock.sleep(delay)


def _fit(call: Call, target: Target, cap: int, call_context: CallContext) -> Call:
    is_another_left = not call_context.is_last_target
    if isinstance(call, ModelCall):
        return replace(call, model=target.model, max_output_tokens=cap, is_another_target_left=is_another_left)
    return replace(call, model=target.model, is_another_target_left=is_another_left)
