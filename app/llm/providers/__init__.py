"""Adapters: one package for each wire protocol, what the adapters share, and the registry that loads the configured ones.

An SDK is imported in its own `client` module alone. Imports `llm.provider`, `llm.messages` and what is below `llm`.
"""
