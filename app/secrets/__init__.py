"""Secrets: references to them in the configuration, and encryption of content at rest. Imports `domain` alone."""
