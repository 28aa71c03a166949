"""Values that every package uses: attempts, token usage, money, ids, pages, hosts, problems and errors.

No input or output, no clock, no store. Imports nothing of this project outside itself.
"""
