"""`greenlang simulate`."""

from __future__ import annotations

import argparse
from typing import NoReturn

from app.runtime.clock import Clock
from app.supervisor.simulator import simulate


def run(options: argparse.Namespace, _clock: Clock) -> NoReturn:
    simulate(options.host, options.port, options.log)
