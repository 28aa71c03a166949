"""Completions that are watched while they run: the sink that logs events, its producer, and those who read the log elsewhere.

Imports the parts of a call, but neither its lifecycle nor `gateway`, which imports this.
"""
