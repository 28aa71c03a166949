"""Whether this process can serve: the checks of the stores, and the endpoints that show them.

Imports the stores and what is below.
"""
