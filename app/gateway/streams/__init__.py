"""Completions that are watched while they run: the sink that logs events, its producer, and the readers of the log in other
processes.

Imports the parts of a call, but neither its lifecycle nor `gateway`, which imports this package.
"""
