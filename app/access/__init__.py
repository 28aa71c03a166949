"""Who may call what: API keys, their limits, tenants and agents, and the allowance for documents.

Imports the stores and what is below. Never imports `costs`, `llm` or `health`; `gateway` brings them together.
"""
