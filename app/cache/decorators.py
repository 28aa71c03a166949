"""Decorators that keep the results of the domain's own reads for a short time, in the cache that their object holds.

    @cached(ttl=timedelta(seconds=60), key=forecast_key, tags=("forecast",), early=timedelta(seconds=45))
    async def costs(self, where: CostFilter) -> CostForecast | None: ...

Only for reads that cost nothing: `early` repeats a read that no caller waits for. A result is encoded with msgspec, so each
caller gets a value of its own. `key` takes the arguments of the method.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar, get_type_hints

import msgspec

from app.cache.reads import ReadCache, ReadKey, ReadRule

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class HoldsReads(Protocol):
    @property
    def kept_reads(self) -> ReadCache | None:
        """None: nothing is kept."""
        ...


Owner = TypeVar("Owner", bound=HoldsReads)
Read: TypeAlias = Callable[Concatenate[Owner, Arguments], Coroutine[Any, Any, Result]]


def cached(
    *, ttl: timedelta, key: Callable[Arguments, ReadKey], tags: tuple[str, ...] = (), early: timedelta | None = None
) -> Callable[[Read[Owner, Arguments, Result]], Read[Owner, Arguments, Result]]:
    """Keeps the result of a method for `ttl` after its read began. Callers that ask at once wait for one read. If a result is
    asked for when it is older than `early`, it is given, and read again in the background.

    An invalidation of a caller drops the results with data of its tenant that it selects, by name or by `tags`. What the
    method raises is not kept.
    """
    return _keeping(ReadRule(ttl, early, tags, frozenset()), key)


def cached_with_invalidation(
    *,
    ttl: timedelta,
    key: Callable[Arguments, ReadKey],
    events: frozenset[str],
    tags: tuple[str, ...] = (),
    early: timedelta | None = None,
) -> Callable[[Read[Owner, Arguments, Result]], Read[Owner, Arguments, Result]]:
    """Keeps results as `cached` does. Events of the domain of the kinds `events` drop those with data of their tenant too."""
    return _keeping(ReadRule(ttl, early, tags, events), key)


def _keeping(
    rule: ReadRule, key: Callable[Arguments, ReadKey]
) -> Callable[[Read[Owner, Arguments, Result]], Read[Owner, Arguments, Result]]:
    def decorate(method: Read[Owner, Arguments, Result]) -> Read[Owner, Arguments, Result]:
        encoder = msgspec.msgpack.Encoder()
        decoder: msgspec.msgpack.Decoder[Result] = msgspec.msgpack.Decoder(get_type_hints(method)["return"])

        @functools.wraps(method)
        async def keep(owner: Owner, /, *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
            reads = owner.kept_reads
            if reads is None:
                return await method(owner, *arguments, **named)

            async def read() -> bytes:
                return encoder.encode(await method(owner, *arguments, **named))

            return decoder.decode(await reads.get(key(*arguments, **named), rule, read))

        return keep

    return decorate
