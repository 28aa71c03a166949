"""Estimates the pages of a PDF from its bytes, without reading it as a document.

A page is an object of type Page. PDFs since version 1.5 may keep such objects in compressed streams, so those are opened too, up
to a bound. A file in which no page is found, such as an encrypted one, counts a page for each 50,000 bytes.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

_HEADER = b"%PDF-"
_HEADER_WITHIN = 1024
_PAGE = re.compile(rb"/Type\s{0,8}/Page(?![A-Za-z])")
_OBJECTS = re.compile(rb"/Type\s{0,8}/ObjStm")
_STREAM = re.compile(rb"stream\r?\n")
_PIECE = 1024 * 1024
_OVERLAP = 32
_STREAM_WITHIN = 1024
_MAX_OPENED = 16 * 1024 * 1024
_BYTES_A_PAGE = 50_000


def is_pdf(data: bytes | bytearray) -> bool:
    return _HEADER in data[:_HEADER_WITHIN]


def estimate_pages(data: bytes | bytearray) -> int:
    """Returns at least 1. Works in pieces, so that other threads get their turn."""
    found = sum(1 for _ in _find(_PAGE, data))
    left = _MAX_OPENED
    for at in _find(_OBJECTS, data):
        opened = _open(data, at, left)
        left -= len(opened)
        found += sum(1 for _ in _find(_PAGE, opened))
        if left <= 0:
            break
    return found or -(-len(data) // _BYTES_A_PAGE) or 1


def _find(pattern: re.Pattern[bytes], data: bytes | bytearray) -> Iterator[int]:
    for start in range(0, len(data), _PIECE):
        for found in pattern.finditer(data[start : start + _PIECE + _OVERLAP]):
            if found.start() < _PIECE:
                yield start + found.start()


def _open(data: bytes | bytearray, at: int, most: int) -> bytes:
    begin = _STREAM.search(data, at, at + _STREAM_WITHIN)
    if begin is None or most <= 0:
        return b""
    try:
        return zlib.decompressobj().decompress(data[begin.end() : begin.end() + _PIECE], most)
    except zlib.error:
        return b""
