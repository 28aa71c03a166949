"""Which subscribers see the same events, so that one execution can serve all of them."""

from __future__ import annotations

from enum import Enum


class Audience(Enum):
    EVERYONE = "everyone"
    TENANT = "tenant"
