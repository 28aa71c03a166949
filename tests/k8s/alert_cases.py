"""For each alert: series with which it fires, with which it does not, and the labels of what fires. A value is written as
promtool expands it: `0+5x80` begins with 0 and grows by 5 a minute, 80 times."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AlertCase:
    fires: dict[str, str]
    quiet: dict[str, str]
    labels: dict[str, str] = field(default_factory=dict)


REQUESTS = 'greenlang_http_requests_total{{route="/graphql",status="{}"}}'
CALLS = 'greenlang_calls_total{{tenant="",status="{}"}}'
AT = "80m"


def of(series: str, bad: str, good: str, **labels: str) -> AlertCase:
    return AlertCase({series: bad}, {series: good}, labels)


def burn(series: str, ended: str, failed: str, bad: str, good: str) -> AlertCase:
    answered = {series.format(ended): "0+1000x80"}
    return AlertCase({**answered, series.format(failed): bad}, {**answered, series.format(failed): good})


CASES = {
    "GreenLangRequestErrorsFast": burn(REQUESTS, "200", "503", "0+20x80", "0+20x70 1400x9"),
    "GreenLangRequestErrorsSlow": burn(REQUESTS, "200", "500", "0+8x80", "0+5x80"),
    "GreenLangCallFailuresFast": burn(CALLS, "finished", "failed", "0+20x80", "0+10x80"),
    "GreenLangCallFailuresSlow": burn(CALLS, "finished", "failed", "0+8x80", "0+8x35 280x45"),
    "GreenLangBreakerOpen": of(
        'greenlang_breaker_open{provider="openai",model="m"}', "1x80", "0.5x80", provider="openai", model="m"
    ),
    "GreenLangBudgetNearLimit": of("greenlang_budgets_near_limit", "1x80", "0x80"),
    "GreenLangReplicaLag": of('greenlang_database_lag_seconds{server="b:5432"}', "30x80", "0x77 30x2", server="b:5432"),
    "GreenLangConnectionWaits": of('greenlang_database_connection_waiters{server="a"}', "3x80", "0 3 0 3 0x76"),
    "GreenLangOutboxAge": of("greenlang_outbox_oldest_seconds", "0x60 60+60x20", "5x80"),
    "GreenLangWebhooksDue": of("greenlang_webhooks_due", "200x80", "99x80"),
    "GreenLangSecretsFailing": of('greenlang_secrets_failing{source="vault"}', "1x80", "0x80", source="vault"),
    "GreenLangRedisDown": AlertCase(
        {'greenlang_redis_up{pod="1"}': "0x80", 'greenlang_redis_up{pod="2"}': "0x80"},
        {'greenlang_redis_up{pod="1"}': "0x80", 'greenlang_redis_up{pod="2"}': "1x80"},
    ),
    "GreenLangEventLoopLag": AlertCase(
        {
            'greenlang_event_loop_lag_seconds_bucket{pod="1",le="0.1"}': "0+1x80",
            'greenlang_event_loop_lag_seconds_bucket{pod="1",le="0.25"}': "0+2x80",
            'greenlang_event_loop_lag_seconds_bucket{pod="1",le="+Inf"}': "0+2x80",
        },
        {
            'greenlang_event_loop_lag_seconds_bucket{pod="1",le="0.1"}': "0+2x80",
            'greenlang_event_loop_lag_seconds_bucket{pod="1",le="+Inf"}': "0+2x80",
        },
        {"pod": "1"},
    ),
    "GreenLangPodsBelowMinimum": AlertCase(
        {f'up{{job="greenlang",pod="{pod}"}}': "1x80" for pod in range(5)},
        {f'up{{job="greenlang",pod="{pod}"}}': "1x80" for pod in range(6)},
    ),
}
EXTRA = {
    "GreenLangConnectionWaits": AlertCase(
        {'greenlang_database_connection_refusals_total{server="a"}': "0+2x80"},
        {'greenlang_database_connection_refusals_total{server="a"}': "7x80"},
    ),
    "GreenLangPodsBelowMinimum": AlertCase(
        {}, {f'up{{job="greenlang",pod="{pod}"}}': "1x79 0" if pod == 0 else "1x80" for pod in range(6)}
    ),
}
"""Another way to fire, or to be quiet."""
ALSO = {
    "GreenLangConnectionWaits": {"greenlang_database_connection_waiters", "greenlang_database_connection_refusals_total"},
    "GreenLangPodsBelowMinimum": {"up"},
}
"""Metrics of an alert that some of its cases leave out."""
