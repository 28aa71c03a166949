"""Values that every package uses: attempts, token usage, money, ids, pages, hosts, problems and errors.

Has no input or output, no clock and no store. Imports nothing else of this project.
"""
