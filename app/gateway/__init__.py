"""The paid call, from its plan to its settlement: where `llm`, `costs`, `access` and `events` meet.

`gateway` is the entrance and `lifecycle` the order of things; `streams` is for calls that are watched while they run.
"""
