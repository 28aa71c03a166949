"""PostgreSQL: engines, sessions for reading and for writing, stall detection, wake-ups by NOTIFY, migrations, and the tables.

Imports `settings` and what is below, no other store and no domain of the product.
"""
