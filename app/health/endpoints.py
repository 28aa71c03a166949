"""`/healthz` says that the process is alive, `/ready` that it can serve, `/startup` that it could serve at least once."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.health.checks import Health, Report, Verdict

_UNCACHED = {"Cache-Control": "no-store"}
_ALIVE = Response(b'{"status":"ok"}', media_type="application/json", headers=_UNCACHED)


def build_health_routes(health: Health) -> list[Route]:
    """None of them needs a key, and none shows more than names and durations."""

    async def ready(_: Request) -> JSONResponse:
        return _answer(await health.ready())

    async def startup(_: Request) -> JSONResponse:
        return _answer(await health.started())

    return [
        Route("/healthz", _alive),
        Route("/ready", ready),
        Route("/startup", startup),
    ]


async def _alive(_: Request) -> Response:
    return _ALIVE


def _answer(report: Report) -> JSONResponse:
    checks = {
        finding.name: {"ok": finding.ok, "required": finding.required, "tookMs": finding.took_ms} for finding in report.checks
    }
    status = 503 if report.verdict in {Verdict.UNAVAILABLE, Verdict.DRAINING} else 200
    return JSONResponse({"status": report.verdict.value, "checks": checks}, status, headers=_UNCACHED)
