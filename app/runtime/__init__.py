"""What a process needs, whatever it serves: the clock, tasks, threads for long work, timeouts, batches and ticks.

A tool that several packages need belongs here, not in the first package that needed it. Imports `domain` alone.
"""
