"""Redis: clients for one server, Sentinel and Cluster, and the Lua scripts. The only package that imports redis-py.

Imports `settings` and what is below.
"""
