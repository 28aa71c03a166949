"""The configuration that a command line selects."""

from __future__ import annotations

import argparse
import os

from app.secret_stores.first_values import with_first_values
from app.settings import Settings
from app.settings.load import load_settings

_ON_THE_COMMAND_LINE = ("host", "port", "data_dir", "workers")


def settings_of(options: argparse.Namespace) -> Settings:
    """Reads the secrets in Vault and AWS too. Raises SettingsError."""
    given = {f"server.{name}": getattr(options, name, None) for name in _ON_THE_COMMAND_LINE}
    return with_first_values(load_settings(options.config, os.environ, given))
