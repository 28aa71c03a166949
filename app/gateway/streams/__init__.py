"""Completions that are watched while they run: the run that produces events, its log, and those who read it elsewhere.

Imports the rest of `gateway`, never the other way round.
"""
