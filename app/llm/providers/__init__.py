"""Adapters: one package for each wire protocol, the parts that adapters share, and the registry that loads the configured ones.

An SDK is imported only in its own `client` module. Imports `llm.provider`, `llm.messages` and what is below `llm`.
"""
