from __future__ import annotations

import pytest

from app.llm.pdf_pages import estimate_pages, is_pdf
from tests.pdfs import packed_pdf, plain_pdf


@pytest.mark.parametrize("pages", [1, 7, 600])
def test_pages_in_the_open_are_counted(pages: int) -> None:
    assert estimate_pages(plain_pdf(pages)) == pages


@pytest.mark.parametrize("pages", [1, 40])
def test_pages_in_a_compressed_stream_are_counted(pages: int) -> None:
    assert estimate_pages(packed_pdf(pages)) == pages


def test_a_page_on_the_border_of_two_pieces_is_counted_once() -> None:
    for shift in range(40):
        data = b"%PDF-1.4" + b" " * (1024 * 1024 - 28 + shift) + b"/Type /Page >>" + b" " * 100
        assert estimate_pages(data) == 1, shift


@pytest.mark.parametrize(("size", "pages"), [(0, 1), (100, 1), (50_000, 1), (50_001, 2), (1_000_000, 20)])
def test_a_file_whose_pages_cannot_be_seen_counts_by_its_size(size: int, pages: int) -> None:
    assert estimate_pages(b"x" * size) == pages


def test_streams_that_inflate_without_end_are_opened_up_to_a_bound() -> None:
    bomb = packed_pdf(1).replace(b"%%EOF", b"") + packed_pdf(2_000_000)

    assert 1 < estimate_pages(bomb * 3) < 600_000


def test_a_broken_stream_is_passed_over() -> None:
    assert estimate_pages(b"%PDF-1.7 /Type /ObjStm >> stream\nnot deflated endstream /Type /Page") == 1


def test_a_pdf_begins_with_its_header_perhaps_after_some_rubbish() -> None:
    assert is_pdf(plain_pdf())
    assert is_pdf(b"\r\n" * 10 + plain_pdf())
    assert not is_pdf(b"PK\x03\x04" + b" " * 2000 + plain_pdf())
