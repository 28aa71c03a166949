"""Misuse that is not examined, for tests of something else."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from app.runtime.clock import SystemClock
from app.web.client_address import TrustedProxies
from app.web.misuse import Misuse


def new_misuse() -> Misuse:
    return Misuse(CollectorRegistry(), TrustedProxies(), SystemClock())
