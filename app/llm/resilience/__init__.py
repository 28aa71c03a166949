"""What stands between a call and a target: breaker, limiter and retry, their forms shared between processes, and failover.

`guarded` puts them around one provider. Imports `llm.provider`, `llm.routing`, `llm.metrics` and what is below `llm`.
"""
