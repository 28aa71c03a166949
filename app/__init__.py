"""The server. Which packages there are, and which may import which: docs/architecture.md and pyproject.toml."""
