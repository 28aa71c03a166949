"""The configuration that a command line selects."""

from __future__ import annotations

import argparse
import os

from app.settings import Settings
from app.settings.load import load_settings

_ON_THE_COMMAND_LINE = ("host", "port", "data_dir", "workers")


def settings_of(options: argparse.Namespace) -> Settings:
    """Raises SettingsError."""
    given = {f"server.{name}": getattr(options, name, None) for name in _ON_THE_COMMAND_LINE}
    return load_settings(options.config, os.environ, given)
