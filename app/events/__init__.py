"""Events on their way to subscribers: the outbox relay, topics, logs of streams, copies in Redis, and webhooks.

Knows events only as rows and bytes. `costs`, `llm` and `gateway`, which import this package, know what an event means.
"""
