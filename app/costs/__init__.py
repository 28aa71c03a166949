"""Money: prices, estimates, the ledger with its holds, budgets and their alerts, reports, forecasts and exports.

Imports `events`, the stores and what is below. Never imports `access`, `llm` or `health`; `gateway` brings them together.
"""
