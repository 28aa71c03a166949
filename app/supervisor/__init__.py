"""`greenlang serve`: the parent process. It owns the stores, the simulator and the sockets, and forks the server processes.

Imports `embedded`, `settings` and what a start needs. The application is loaded by its name, so this package does not import
it.
"""
