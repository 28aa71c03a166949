"""What guards a call to a target: breaker, limiter and retry, their variants that processes share, and failover. `guarded` puts
them around one provider.

Imports `llm.provider`, `llm.routing`, `llm.metrics` and what is below `llm`.
"""
