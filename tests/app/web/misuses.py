"""Misuse that nobody looks at, for tests of something else."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from app.clock import SystemClock
from app.web.client_address import TrustedProxies
from app.web.misuse import Misuse


def new_misuse() -> Misuse:
    return Misuse(CollectorRegistry(), TrustedProxies(), SystemClock())
