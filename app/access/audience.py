"""Whose subscribers see the same events, so that one execution may serve them all."""

from __future__ import annotations

from enum import Enum


class Audience(Enum):
    EVERYONE = "everyone"
    TENANT = "tenant"
