"""The targets of one call while it tries them, and the error if none of them answered.

If a target has no room at its limiter, it is passed over as long as another target has room. If none has room, the call waits.
If every target would fail in the same way, the failure ends the call. A context that is too long is tried at every target whose
window is not known to be as small. A refusal without a known reason is tried at one other target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.errors import FailureKind, ProviderError, Refused, RefusedByTarget
from app.domain.problems import ProblemCode
from app.llm.resilience.guarded import CallContext, Guarded, TargetSkipped
from app.llm.routing import ProvidersFailed, RateLimited, Target
from app.runtime.clock import Clock

_SKIPPED = frozenset({AttemptOutcome.SKIPPED_OPEN_CIRCUIT, AttemptOutcome.SKIPPED_LIMIT, AttemptOutcome.SKIPPED_BUDGET})
_NOT_WORTH_REPEATING = frozenset(
    {
        FailureKind.KEY_REFUSED,
        FailureKind.MODEL_NOT_FOUND,
        FailureKind.CONTEXT_TOO_LONG,
        FailureKind.UNSUPPORTED,
        FailureKind.UNKNOWN_REFUSAL,
    }
)


def moves_on(kind: FailureKind) -> str:
    """Whether another target is tried after such a failure, in words for the documentation."""
    if ProviderError(kind).final:
        return "no"
    return {
        FailureKind.CONTEXT_TOO_LONG: "unless its window is known to be as small",
        FailureKind.UNKNOWN_REFUSAL: "one",
    }.get(kind, "yes")


class Failover:
    def __init__(
        self,
        targets: Sequence[Guarded],
        call_context: CallContext,
        output_tokens: int,
        *,
        deadline: float,
        clock: Clock,
        context_tokens: Callable[[Target], int | None],
    ) -> None:
        self.call_context = call_context
        self._left = list(targets)
        self._output_tokens = output_tokens
        self._deadline = deadline
        self._clock = clock
        self._context_tokens = context_tokens
        self._passed_over: set[Target] = set()
        self._final: ProviderError | None = None
        self._refused: RateLimited | None = None
        self._not_taken: Refused | None = None
        self._retryable = False
        self._unknown_refusals = 0

    def next(self) -> Guarded | None:
        """Returns the next target to try; None if none is left or it is too late."""
        if not self._left or self._clock.monotonic() >= self._deadline:
            return None
        chosen = self._left[0]
        if len(self._left) > 1 and self._seconds_of_waiting(chosen) > 0:
            chosen = min(self._left, key=self._seconds_of_waiting)
            for guarded in self._left[: self._left.index(chosen)]:
                self._pass_over(guarded)
        self._left.remove(chosen)
        self.call_context.is_last_target = not self._left
        return chosen

    def failed(self, guarded: Guarded, error: ProviderError | TargetSkipped | Refused) -> None:
        """Records the failure and drops the targets that could not do better. If the first target refuses the call as invalid,
        the refusal is raised, because the call is wrong for its route. A later target that refuses is passed over."""
        if isinstance(error, Refused):
            if not self.call_context.attempts and not isinstance(error, RefusedByTarget):
                raise error
            self._not_taken = self._not_taken or error
            return
        if isinstance(error, TargetSkipped):
            self._refused = error.refusal or self._refused
            self._retryable = True
            return
        if error.final:
            self._final = error
            self._left.clear()
        elif error.kind is FailureKind.CONTEXT_TOO_LONG:
            self._final = error
            window = self._context_tokens(guarded.target)
            self._left = [other for other in self._left if self._may_be_larger(other, window)]
        elif error.kind is FailureKind.UNKNOWN_REFUSAL:
            if self._unknown_refusals:
                self._left.clear()
            self._unknown_refusals += 1
        elif error.kind not in _NOT_WORTH_REPEATING:
            self._final = None
            self._retryable = True

    def refusal(self) -> Refused:
        """Why no target answered: Refused(RateLimited) if only limiters refused, else Refused(ProvidersFailed)."""
        attempts = tuple(self.call_context.attempts)
        if self._not_taken is not None and not attempts:
            return self._not_taken
        if self._refused is not None and all(attempt.outcome is AttemptOutcome.SKIPPED_LIMIT for attempt in attempts):
            return Refused(self._refused)
        code = self._code(attempts)
        retryable = self._retryable and self._final is None
        return Refused(ProvidersFailed(_describe(attempts, code), attempts, retryable, code))

    def _code(self, attempts: Sequence[Attempt]) -> ProblemCode:
        tried = [attempt for attempt in attempts if attempt.outcome not in _SKIPPED]
        reasons = {attempt.reason for attempt in tried or attempts}
        if self._final is not None and tried:
            reasons = {tried[-1].reason}
        elif not reasons or (self._clock.monotonic() >= self._deadline and ProblemCode.TIMEOUT in reasons):
            reasons = {ProblemCode.TIMEOUT}
        if len(reasons) > 1 or ProblemCode.INVALID_INPUT in reasons:
            return ProblemCode.PROVIDER_ERROR
        return reasons.pop() or ProblemCode.PROVIDER_ERROR

    def _seconds_of_waiting(self, guarded: Guarded) -> float:
        return 0.0 if guarded.breaker.seconds_to_probe > 0 else self._seconds_of_limits(guarded)

    def _seconds_of_limits(self, guarded: Guarded) -> float:
        return guarded.seconds_until(guarded.allowance.reservation(self.call_context.input_tokens, self._output_tokens))

    def _pass_over(self, guarded: Guarded) -> None:
        if guarded.target not in self._passed_over:
            self._passed_over.add(guarded.target)
            guarded.skip(AttemptOutcome.SKIPPED_LIMIT, self.call_context)
            seconds = self._seconds_of_limits(guarded)
            message = f"The rate limit of {guarded.name} has no room."
            self._refused = RateLimited(message, timedelta(seconds=max(1.0, seconds)), guarded.name)

    def _may_be_larger(self, guarded: Guarded, window: int | None) -> bool:
        other = self._context_tokens(guarded.target)
        return other is None or window is None or other > window


def _describe(attempts: Sequence[Attempt], code: ProblemCode) -> str:
    if not attempts:
        return "The deadline passed before a target could be tried."
    last: dict[str, str] = {}
    for attempt in attempts:
        reason = attempt.reason or code
        last[f"{attempt.provider}/{attempt.model}"] = reason.value.lower().replace("_", " ")
    return "No target answered: " + ", ".join(f"{target} ({reason})" for target, reason in last.items()) + "."
