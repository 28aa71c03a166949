"""The server. docs/architecture.md and pyproject.toml say which packages there are, and which may import which."""
