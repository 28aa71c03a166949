"""The cache of answers: four tiers, from the memory of this process to PostgreSQL, and the invalidations of callers.

If a tier is absent or away, a look-up goes on to the next one. What a caller has invalidated is never returned again, because
every entry is compared with the invalidations when it is read, in any tier. Imports events, db, redis and what is below. Knows
nothing of completions.
"""
