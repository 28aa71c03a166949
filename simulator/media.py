"""Images and documents of a request, as both providers take them."""

from __future__ import annotations

import binascii
import re

from simulator.text import CHARS_PER_TOKEN, PAGE_TOKENS

_PAGE = re.compile(rb"/Type\s*/Page(?![A-Za-z])")


def pdf_chars(data: str) -> int:
    """The number of prompt characters that a PDF counts as. Raises ValueError if the text is not the base64 of a PDF."""
    content = binascii.a2b_base64(data, strict_mode=True)
    if b"%PDF-" not in content[:1024]:
        raise ValueError("not a PDF")
    return max(1, len(_PAGE.findall(content))) * PAGE_TOKENS * CHARS_PER_TOKEN
