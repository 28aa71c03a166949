"""Writes the dashboards of Grafana into the folder `grafana` beside this file, when it is run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "grafana"
_WIDTH, _HEIGHT, _PANELS_A_ROW = 8, 8, 3


@dataclass(frozen=True, slots=True)
class Panel:
    """`queries` are pairs of an expression and its legend. `unit` is Grafana's name of it."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"


def one(title: str, expression: str, legend: str = "", unit: str = "short", kind: str = "timeseries") -> Panel:
    return Panel(title, ((expression, legend),), unit, kind)


def quantiles(title: str, histogram: str, by: str = "") -> Panel:
    """P50, P95 and P99 of a histogram of seconds."""
    legend = "".join(f" {{{{{label}}}}}" for label in by.split(", ") if label)
    labels = f"le, {by}" if by else "le"
    queries = (
        (f"histogram_quantile({part}, sum by ({labels}) (rate({histogram}_bucket[5m])))", f"P{part * 100:.0f}{legend}")
        for part in (0.5, 0.95, 0.99)
    )
    return Panel(title, tuple(queries), "s")


def rate(title: str, counter: str, by: str = "", unit: str = "reqps") -> Panel:
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", ") if label)
    grouped = f" by ({by})" if by else ""
    return one(title, f"sum{grouped} (rate({counter}[5m]))", legend, unit)


_HIT_RATE = (
    'sum by (tier) (rate(greenlang_cache_lookups_total{outcome="hit"}[5m]))'
    " / sum by (tier) (rate(greenlang_cache_lookups_total[5m]))"
)
TRAFFIC = (
    rate("Requests by status", 'greenlang_http_requests_total{route="/graphql"}', "status"),
    quantiles("Time to answer (streams are not in it)", "greenlang_http_request_seconds", "route"),
    rate("Refused as overloaded", "greenlang_shed_total", "kind"),
    Panel(
        "Errors of requests, in times the budget of 0.1 %",
        (
            ("greenlang:request_errors:ratio5m / 0.001", "5 m"),
            ("greenlang:request_errors:ratio1h / 0.001", "1 h"),
            ("greenlang:request_errors:ratio6h / 0.001", "6 h"),
        ),
    ),
    Panel(
        "Failed calls, in times the budget of 0.1 %",
        (
            ("greenlang:call_failures:ratio5m / 0.001", "5 m"),
            ("greenlang:call_failures:ratio1h / 0.001", "1 h"),
            ("greenlang:call_failures:ratio6h / 0.001", "6 h"),
        ),
    ),
    rate("Paid calls by end", "greenlang_calls_total", "status"),
    one("In flight", "sum by (kind) (greenlang_in_flight)", "{{kind}}"),
    Panel(
        "Open streams",
        (("sum(greenlang_open_streams)", "streams"), ("sum(greenlang_open_subscriptions)", "subscriptions")),
    ),
    rate("Refused keys", "greenlang_refusals_total", "door, reason"),
)
COSTS = (
    one(
        "US dollars an hour",
        "sum by (provider, model) (rate(greenlang_provider_cost_usd_total[5m])) * 3600",
        "{{provider}}/{{model}}",
        "currencyUSD",
    ),
    one("US dollars today", "sum(increase(greenlang_provider_cost_usd_total[24h]))", "", "currencyUSD", "stat"),
    one(
        "US dollars an hour, of named tenants",
        "sum by (tenant) (rate(greenlang_call_cost_usd_total[5m])) * 3600",
        "{{tenant}}",
        "currencyUSD",
    ),
    rate("Tokens by class", "greenlang_provider_tokens_total", "class", "short"),
    one("Budgets that passed 90 % within the hour", "greenlang:budgets_near_limit:max", "", "short", "stat"),
    rate("Calls that a budget refused", "greenlang_budget_refusals_total", "tenant"),
    one("Alerts of budgets", "max(increase(greenlang_budget_alerts_total[1h]))"),
    one("US dollars an hour saved by the cache", "sum(rate(greenlang_cache_saved_usd_total[5m])) * 3600", "", "currencyUSD"),
)
PROVIDERS = (
    rate("Attempts by outcome", "greenlang_provider_requests_total", "provider, model, outcome"),
    rate("Failures by kind", "greenlang_provider_failures_total", "provider, kind"),
    one("Breakers: 1 is open, 0.5 probes", "greenlang:breaker_open:max", "{{provider}}/{{model}}"),
    quantiles("Time to a whole answer", "greenlang_provider_latency_seconds", "provider, model"),
    quantiles("Time to the first token", "greenlang_provider_first_token_seconds", "provider, model"),
    one("Calls that wait for a rate limit", "sum by (provider) (greenlang_limiter_waiting)", "{{provider}}"),
)
CACHE = (
    rate("Look-ups", "greenlang_cache_lookups_total", "tier, outcome"),
    one("Part of look-ups that hit", _HIT_RATE, "{{tier}}", "percentunit"),
    quantiles("Time of a tier", "greenlang_cache_lookup_seconds", "tier"),
    one("Tiers that answer", "min by (tier) (greenlang_cache_available)", "{{tier}}"),
    one("Size", "max by (tier) (greenlang_cache_bytes)", "{{tier}}", "bytes"),
    one("Evictions in five minutes", "max by (tier) (delta(greenlang_cache_evictions[5m]))", "{{tier}}"),
)
STORES = (
    one("Connections to PostgreSQL", "sum by (server, use) (greenlang_database_connections)", "{{server}} {{use}}"),
    one("Callers that wait for a connection", "sum by (server) (greenlang_database_connection_waiters)", "{{server}}"),
    rate("Callers that were refused a connection", "greenlang_database_connection_refusals_total", "server"),
    one("Replica lag", "greenlang:database_lag_seconds:max", "{{server}}", "s"),
    one("Roles as the pods see them", "sum by (server, role) (greenlang_database_server_role)", "{{server}} {{role}}"),
    one("Failovers", "max(increase(greenlang_database_failovers_total[1h]))"),
    one(
        "Slowest statements, P99",
        "topk(10, histogram_quantile(0.99, sum by (le, statement) (rate(greenlang_database_statement_seconds_bucket[5m]))))",
        "{{statement}}",
        "s",
    ),
    rate("Reads by role", "greenlang_database_reads_total", "role"),
    one("Pods that Redis answers", "sum(greenlang_redis_up)"),
    quantiles("Time of Redis", "greenlang_redis_seconds"),
    one("Oldest event in the outbox", "greenlang:outbox_oldest_seconds:max", "", "s"),
    one("Webhooks that are due", "greenlang:webhooks_due:max"),
    quantiles("Time of vector stores", "greenlang_vector_store_seconds", "store"),
    one("Documents that wait for a vector store", "max by (store) (greenlang_vector_documents_pending)", "{{store}}"),
    one("Secrets that cannot be read", "max by (source) (greenlang_secrets_failing)", "{{source}}"),
)
PODS = (
    one("Pods that answer", 'sum(up{job="greenlang"})', "", "short", "stat"),
    one("Versions", "count by (version) (greenlang_build_info)", "{{version}}"),
    rate("Processes that were replaced", "greenlang_process_restarts_total", "reason", "short"),
    quantiles("Event loop lag", "greenlang_event_loop_lag_seconds", "pod"),
    one("Tasks", "max by (pod) (greenlang_tasks)", "{{pod}}"),
    one("In flight by pod", "sum by (pod) (greenlang_in_flight)", "{{pod}}"),
    one("Events that a pod is behind", "max(greenlang_event_position) - min by (pod) (greenlang_event_position)", "{{pod}}"),
)
DASHBOARDS = {
    "traffic": ("traffic and objectives", TRAFFIC),
    "costs": ("costs and budgets", COSTS),
    "providers": ("providers", PROVIDERS),
    "cache": ("cache", CACHE),
    "stores": ("stores", STORES),
    "pods": ("pods", PODS),
}


def dashboard(name: str) -> str:
    """The JSON of one dashboard, as it is in its file."""
    title, panels = DASHBOARDS[name]
    written = {
        "uid": f"greenlang-{name}",
        "title": f"GreenLang: {title}",
        "tags": ["greenlang"],
        "timezone": "utc",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]},
        "panels": [_panel(index, each) for index, each in enumerate(panels)],
    }
    return json.dumps(written, indent=1, ensure_ascii=False) + "\n"


def _panel(index: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(index, _PANELS_A_ROW)
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "id": index + 1,
        "type": panel.kind,
        "title": panel.title,
        "datasource": source,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {"refId": "ABC"[number], "datasource": source, "expr": expression, "legendFormat": legend}
            for number, (expression, legend) in enumerate(panel.queries)
        ],
    }


def main() -> None:
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(dashboard(name), encoding="utf-8")


if __name__ == "__main__":
    main()
