"""The content key of a data directory, in a file of mode 0600. The first start without a configured key makes it.

It is made only if PostgreSQL runs in the data directory, because then no other machine reads the content. It continues to open
what it sealed, even after keys are configured.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Final

from app.domain.errors import SettingsError
from app.secrets.reference import SecretReference
from app.secrets.sealing import build_sealer
from app.settings import Settings

CONTENT_KEY: Final = "content.key"
_KEY_BYTES: Final = 32
_OWNER_ONLY: Final = 0o600


def with_content_key(settings: Settings, data_dir: Path) -> Settings:
    """Returns the settings with the data directory's key as their last one. The key is made if PostgreSQL is private and no key
    is configured. Raises SettingsError if the file cannot be written or has no key."""
    file, configured = data_dir / CONTENT_KEY, settings.content.encryption_keys
    if settings.database.primary is None and not configured:
        _keep_key(file)
    elif not configured or not file.is_file():
        return settings
    reference = SecretReference(file=file)
    build_sealer([reference])
    return settings.model_copy(
        update={"content": settings.content.model_copy(update={"encryption_keys": (*configured, reference)})}
    )


def keeps_content_in_clear(settings: Settings) -> bool:
    """Whether prompts and answers are stored in a configured database without a key to encrypt them."""
    content = settings.content
    return content.store and settings.database.primary is not None and not content.encryption_keys


def _keep_key(file: Path) -> None:
    """Writes the file under another name first, so a start that is killed leaves no incomplete key."""
    try:
        if file.exists():
            file.chmod(_OWNER_ONLY)
            return
        fresh = file.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
        with os.fdopen(descriptor, "w", encoding="utf-8") as output:
            output.write(base64.b64encode(os.urandom(_KEY_BYTES)).decode() + "\n")
            output.flush()
            os.fsync(output.fileno())
        fresh.rename(file)
        folder = os.open(file.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except OSError as error:
        raise SettingsError(f"file {file}", f"the content key cannot be written: {error.strerror}") from error
