"""The private PostgreSQL and Valkey of a machine that has none: their programs, their processes, their addresses.

Imports `secrets`, `domain` and nothing else of this project.
"""
