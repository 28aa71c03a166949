"""How long a target may be silent before its answer begins.

A whole answer shows nothing until it is complete, so its time grows with its output cap. If another target is left, a silent
target gets at most half of the call's remaining time. If none is left, it gets longer.
"""

from __future__ import annotations

from datetime import timedelta

from app.llm.messages import EmbedCall, ModelCall
from app.settings import ProviderTimeouts

TOKENS_PER_FIRST_TOKEN_TIMEOUT = 1536
_LONGER = 2


def whole_answer_timeout(timeouts: ProviderTimeouts, max_output_tokens: int) -> timedelta:
    """`first_token`, and the same time again for every 1,536 tokens of the cap: 110 s for 4,096 tokens by default."""
    return timeouts.first_token * (1 + max_output_tokens / TOKENS_PER_FIRST_TOKEN_TIMEOUT)


def first_token_timeout(timeouts: ProviderTimeouts, call: ModelCall) -> timedelta:
    """A model may think before it writes. At the last target the time therefore grows with the cap too, to at most twice
    `first_token`."""
    if call.is_another_target_left:
        return timeouts.first_token
    return min(_LONGER * timeouts.first_token, whole_answer_timeout(timeouts, call.max_output_tokens))


def embedding_timeout(timeouts: ProviderTimeouts, call: EmbedCall) -> timedelta:
    return timeouts.first_token if call.is_another_target_left else _LONGER * timeouts.first_token


def silence_deadline(call: ModelCall | EmbedCall, now: float) -> float:
    """When a silent target is given up in favour of the others, in the Clock's monotonic seconds. It is the call's deadline if
    no other target is left."""
    return now + (call.deadline - now) / 2 if call.is_another_target_left else call.deadline
