"""Small PDFs, with their pages in the open or in a compressed object stream."""

from __future__ import annotations

import zlib
from base64 import b64encode

_PAGE = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] >>"


def plain_pdf(pages: int = 1) -> bytes:
    kids = b" ".join(b"%d 0 R" % (3 + number) for number in range(pages))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] >>" % (pages, kids),
        *[_PAGE] * pages,
    ]
    written = b"\n".join(b"%d 0 obj %s endobj" % (number + 1, each) for number, each in enumerate(objects))
    return b"%PDF-1.4\n" + written + b"\ntrailer << /Root 1 0 R >>\n%%EOF\n"


def packed_pdf(pages: int) -> bytes:
    inside = zlib.compress(b" ".join([_PAGE] * pages))
    head = b"1 0 obj << /Type /ObjStm /N %d /First 10 /Filter /FlateDecode /Length %d >> stream\r\n" % (pages, len(inside))
    return b"%PDF-1.7\n" + head + inside + b"\nendstream endobj\n%%EOF\n"


def base64_pdf(pages: int = 1) -> str:
    return b64encode(plain_pdf(pages)).decode()
