"""The names of what the application hands to the server process in the state of its lifespan."""

from __future__ import annotations

DRAIN = "drain"
METRICS = "metrics"
