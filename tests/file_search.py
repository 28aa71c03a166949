"""Which files hold a word, however it is spelled: as text, in UTF-16, escaped as in JSON, in base64 or in hexadecimal."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from pathlib import Path


def files_with(folder: Path, words: Iterable[str]) -> dict[str, list[Path]]:
    """By word; words that no file holds are left out. Files that end meanwhile hold nothing."""
    spelled = {word: spellings(word) for word in words}
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        for word, each in spelled.items():
            if any(spelling in data for spelling in each):
                found.setdefault(word, []).append(path)
    return found


def spellings(word: str) -> frozenset[bytes]:
    text = word.encode()
    return frozenset(
        {
            text,
            word.encode("utf-16-le"),
            word.encode("utf-16-be"),
            json.dumps(word)[1:-1].encode(),
            json.dumps(json.dumps(word))[3:-3].encode(),
            text.hex().encode(),
            text.hex().upper().encode(),
            *_in_base64(text),
        }
    )


def _in_base64(text: bytes) -> Iterator[bytes]:
    """The characters that depend on the word alone, for each place that it may have among the groups of three bytes."""
    for before in range(3):
        encode = base64.b64encode(bytes(before) + text)
        whole = 4 * ((before + len(text)) // 3)
        piece = encode[4 if before else 0 : whole]
        yield piece
        yield piece.translate(bytes.maketrans(b"+/", b"-_"))
