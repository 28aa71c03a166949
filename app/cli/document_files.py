"""The text and Markdown files of a folder, as documents of a collection.

A document's id is the folder's name and the path below it, so the same file is the same document whenever it is read again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.domain.errors import GreenLangError

MAX_FILE_BYTES = 4 * 1024 * 1024
_KINDS: Mapping[str, str] = {".md": "markdown", ".markdown": "markdown", ".txt": "text", ".text": "text"}


class UnreadableFile(GreenLangError):
    """A file that cannot be a document. The text says why."""


@dataclass(frozen=True, slots=True)
class DocumentFile:
    """`root` is the name of the folder that was given, and `path` the path below it."""

    file: Path
    root: str
    path: str
    kind: str

    @property
    def id(self) -> str:
        return f"{self.root}/{self.path}"

    @property
    def metadata(self) -> Mapping[str, str]:
        return {"root": self.root, "path": self.path, "kind": self.kind}

    def read(self) -> str:
        """Raises UnreadableFile."""
        try:
            content = self.file.read_bytes()
        except OSError as error:
            raise UnreadableFile(f"cannot be read: {error.strerror}") from None
        if len(content) > MAX_FILE_BYTES:
            raise UnreadableFile(f"has {len(content)} bytes; at most {MAX_FILE_BYTES} are allowed")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UnreadableFile("is not UTF-8") from None
        if "\0" in text:
            raise UnreadableFile("contains the character NUL")
        if not text or text.isspace():
            raise UnreadableFile("is empty")
        return text


def find_files(given: Path) -> Sequence[DocumentFile]:
    """Returns the files of a folder, or the one file, in the order of their paths. Hidden files and folders are left out, and
    links are not followed. Raises GreenLangError if there are none."""
    path = given.resolve()
    if path.is_file():
        found = [DocumentFile(path, path.parent.name or "root", path.name, _KINDS.get(path.suffix.lower(), "text"))]
    elif path.is_dir():
        found = sorted(_below(path), key=lambda file: file.path)
    else:
        raise GreenLangError(f"{given} does not exist")
    if not found:
        raise GreenLangError(f"{given} has no files that end with {', '.join(_KINDS)}")
    return found


def _below(root: Path) -> Iterator[DocumentFile]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(folder, name)
            kind = _KINDS.get(file.suffix.lower())
            if kind is not None and not name.startswith(".") and not file.is_symlink():
                yield DocumentFile(file, root.name or "root", file.relative_to(root).as_posix(), kind)
