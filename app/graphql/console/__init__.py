"""The console: a page for a browser that opens `/graphql`. All its files come from this server."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_FOLDER = Path(__file__).parent
_NOTICE_START = "<!-- simulator -->"
_NOTICE_END = "<!-- /simulator -->"


def _without_notice(page: str) -> str:
    head, _, rest = page.partition(_NOTICE_START)
    return head + rest.partition(_NOTICE_END)[2]


class ConsolePage:
    """Answers with the page. `simulated` shows a note that answers come from the simulator."""

    def __init__(self, *, simulated: bool) -> None:
        page = (_FOLDER / "console.html").read_text(encoding="utf-8")
        self._page = page if simulated else _without_notice(page)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = Response(self._page, media_type="text/html", headers={"cache-control": "no-cache", "vary": "accept"})
        await response(scope, receive, send)


class ConsoleFile:
    """Serves one of the page's own files."""

    def __init__(self, name: str, media_type: str) -> None:
        self._content = (_FOLDER / name).read_bytes()
        self._media_type = media_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = Response(self._content, media_type=self._media_type, headers={"cache-control": "no-cache"})
        await response(scope, receive, send)
