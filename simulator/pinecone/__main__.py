"""`python -m simulator.pinecone`: prints one JSON line with its address when it listens, and runs until it is asked to stop."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from simulator.pinecone.records import Visibility
from simulator.pinecone.server import PineconeSimulator
from simulator.process import process_options, run


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    visibility = Visibility(options.visible_after_ms)
    run(
        options,
        lambda address: PineconeSimulator(address, time.monotonic, visibility, options.ready_after_ms),
        lambda _address: {},
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="simulator.pinecone", description="A stand-in for Pinecone over real HTTP.")
    process_options(parser)
    parser.add_argument("--visible-after-ms", type=float, default=0.0, help="time until what was written can be read")
    parser.add_argument("--ready-after-ms", type=float, default=0.0, help="time until a new index takes requests")
    return parser


if __name__ == "__main__":
    main()
