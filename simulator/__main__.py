"""`python -m simulator`: prints one JSON line with its addresses when it listens, and runs until it is asked to stop."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from simulator.attempts import AttemptLog
from simulator.exchange import Desk, Pace
from simulator.limits import Counters, Limits
from simulator.prefix_cache import PrefixCache
from simulator.process import process_options, run
from simulator.server import Simulator


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    log = AttemptLog(options.log)
    try:
        run(
            options,
            lambda _address: Simulator(_desk(options, log)),
            lambda address: {"anthropic": f"{address}/anthropic", "openai": f"{address}/v1"},
        )
    finally:
        log.close()


def _desk(options: argparse.Namespace, log: AttemptLog) -> Desk:
    limits = Limits(
        **{name: value for name in ("requests_per_minute", "tokens_per_minute") if (value := getattr(options, name))},
        enforce=options.enforce_limits,
    )
    return Desk.opened(
        log,
        Pace(options.latency_ms, options.latency_spread, options.tokens_per_second),
        Counters(limits),
        PrefixCache(options.cache_minimum_tokens),
        options.seed,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="simulator", description="A stand-in for Anthropic and OpenAI over real HTTP.")
    process_options(parser)
    parser.add_argument("--log", type=Path, help="append every attempt to this file, a JSON line each")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="time before an answer's headers, a median")
    parser.add_argument("--latency-spread", type=float, default=0.0, help="sigma of the latency's logarithm")
    parser.add_argument("--tokens-per-second", type=float, default=0.0, help="0: as fast as it goes")
    parser.add_argument("--cache-minimum-tokens", type=int, default=1024, help="shorter prefixes are not cached")
    parser.add_argument("--requests-per-minute", type=int, help="of each key, shown in the rate-limit headers")
    parser.add_argument("--tokens-per-minute", type=int, help="of each key, shown in the rate-limit headers")
    parser.add_argument("--enforce-limits", action="store_true", help="answer 429 where a limit is passed")
    parser.add_argument("--seed", type=int, default=1, help="of latencies and of faults with a share")
    return parser


if __name__ == "__main__":
    main()
