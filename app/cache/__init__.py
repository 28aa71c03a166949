"""Answers that are given again: four tiers, from the memory of this process to PostgreSQL, and what has been invalidated.

A tier may be absent or away: then a look-up goes on to the next one. What a caller has invalidated is never given again, because
every entry is compared with the invalidations when it is read, in whichever tier it still is. Imports events, db, redis and
what is below; knows nothing of completions.
"""
