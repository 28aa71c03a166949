"""The paid call, from its plan to its settlement. `llm`, `costs`, `access` and `events` meet here.

`gateway` is the entrance. `lifecycle` says in which order things happen. `streams` is for calls that are watched while they
run.
"""
