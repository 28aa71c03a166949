"""Models and their providers: messages, routes, the router, the fleet with its health, metrics and events.

`providers` speaks the wire protocols and `resilience` guards each target. Imports `events`, the stores and what is below. Never
imports `costs`, `access` or `health`; `gateway` brings them together.
"""
