"""*What did the agent do?*: alerts, remedies and whether they helped, notifications, and what the agent takes."""

from __future__ import annotations

from typing import Any

from grafana.dashboard import Row, build_annotations, build_dashboard, format_growth
from grafana.healthy import CRITICAL, HEADROOM, WARNING
from grafana.panels import (
    HOST,
    FieldOptions,
    Panel,
    Query,
    RightAxis,
    Thresholds,
    ValueMapping,
    build_stat,
    build_state_timeline,
    build_table,
    build_time_series,
)


def build() -> dict[str, Any]:
    """The dashboard."""
    return build_dashboard(
        "steadytok-acts",
        "What did the agent do?",
        "Which alerts fired, which remedies acted on them, whether they helped, and what the agent takes for itself.",
        [
            Row("Remedies now", [*_build_status_panels(), _build_totals_panel()]),
            Row("What happened", [_build_alerts_panel(), _build_remedies_panel(), _build_events_panel()]),
            Row("Did it help?", _build_effect_panels()),
            Row("Was it told?", _build_notification_panels()),
            Row("What the agent takes", _build_cost_panels()),
        ],
        annotations=build_annotations(HOST),
        since="now-6h",
    )


def _build_status_panels() -> list[Panel]:
    mode: tuple[ValueMapping, ...] = (("0", "observing", "text"), ("1", "enforcing", "blue"))
    yes_no: tuple[ValueMapping, ...] = (("0", "no", "green"), ("1", "yes", "orange"))
    halted: tuple[ValueMapping, ...] = (("0", "no", "green"), ("1", "yes", "red"))
    stats = (
        ("Mode", "Observing: remedies say what they would do. Enforcing: they do it.",
         f"max(steadytok_remedies_enforcing{{{HOST}}})", FieldOptions("short", mappings=mode)),
        ("Paused", "By name, or by the kill-switch file.",
         f"max(steadytok_remedies_paused{{{HOST}}})", FieldOptions("short", mappings=yes_no)),
        ("Halted", "No remedy acts because the journal cannot be used.",
         f"max(steadytok_remedies_halted{{{HOST}}})", FieldOptions("short", mappings=halted)),
        ("Acting", "Alerts that a remedy acts on now.",
         f"count(steadytok_remedy_running{{{HOST}}}) or vector(0)",
         FieldOptions("short", Thresholds("green", ((1, "blue"),)))),
        ("Failed", "Firing alerts whose newest act failed or did not help.",
         f"count(steadytok_remedy_failed{{{HOST}}}) or vector(0)", FieldOptions("short", WARNING)),
        ("Gave up", "Remedies that wait for somebody: steadytok remedies resume.",
         f"count(steadytok_remedy_gave_up{{{HOST}}}) or vector(0)", FieldOptions("short", CRITICAL)),
    )  # fmt: skip
    return [
        build_stat(title, description, field_options, Query(expr, title))
        for title, description, expr, field_options in stats
    ]


def _build_totals_panel() -> Panel:
    return build_table(
        "By remedy since the agent started",
        "The words of the diary; steadytok remedies audit has each entry with its reason.",
        FieldOptions("short", decimals=0),
        {"remedy": "Remedy", "event": "What happened", "Value": "Times"},
        Query(f"sum by (remedy, event) (steadytok_remedy_events_total{{{HOST}}}) > 0", ""),
        sort=("Times", True),
        width=24,
        height=6,
    )


def _build_alerts_panel() -> Panel:
    def format_state(name: str) -> str:
        return f'max by (alertname) (sgn(steadytok_alerts{{{HOST},severity!="none",alertstate="{name}"}}))'

    return build_state_timeline(
        "Alerts",
        "When each was pending (1) and firing (2).",
        FieldOptions("short", mappings=(("1", "pending", "yellow"), ("2", "firing", "red"))),
        Query(f"2 * {format_state('firing')} or {format_state('pending')}", "{{alertname}}"),
    )


def _build_remedies_panel() -> Panel:
    return build_state_timeline(
        "Remedies",
        "While a remedy acts, has failed, or has given up.",
        FieldOptions("short", mappings=(("1", "acting", "blue"), ("2", "failed", "orange"), ("3", "gave up", "red"))),
        Query(
            f"3 * max by (remedy, for_alert) (steadytok_remedy_gave_up{{{HOST}}}) or "
            f"2 * max by (remedy, for_alert) (steadytok_remedy_failed{{{HOST}}}) or "
            f"max by (remedy, for_alert) (steadytok_remedy_running{{{HOST}}})",
            "{{remedy}} for {{for_alert}}",
        ),
        height=6,
    )


def _build_events_panel() -> Panel:
    return build_time_series(
        "Entries of the diary",
        "What happened to remedies, by the diary's words, within the minute (or longer step) before each point.",
        FieldOptions("short", min=0, decimals=0),
        Query(
            f"sum by (remedy, event) ({format_growth(f'steadytok_remedy_events_total{{{HOST}}}', '$__rate_interval')})",
            "{{remedy}}: {{event}}",
        ),
        stacked=True,
        width=24,
    )


def _build_effect_panels() -> list[Panel]:
    return [
        build_time_series(
            "Duty and speed",
            "Tokens per second of each engine. Right: share of the time that we let it work, and that it applies.",
            FieldOptions("short", min=0),
            Query(f"max by (engine) (steadytok_engine_tokens_per_second{{{HOST}}})", "{{engine}}"),
            Query(f"min by (engine) (steadytok_pace_duty{{{HOST}}})", "{{engine}}: our duty"),
            Query(f"min by (engine) (steadytok_engine_duty{{{HOST}}})", "{{engine}}: its duty"),
            right_axis=RightAxis("duty$", "percentunit"),
        ),
        build_time_series(
            "Degrees left of the hottest modules",
            "The five that are closest to their limits; below 0 firmware slows memory.",
            FieldOptions("celsius", Thresholds(HEADROOM.base, HEADROOM.steps, area=True)),
            Query(f"bottomk(5, min by (dimm) (steadytok_dimm_headroom_celsius{{{HOST}}}))", "{{dimm}}"),
        ),
    ]


def _build_notification_panels() -> list[Panel]:
    def format_rate(outcome: str) -> str:
        return f"sum by (alertmanager) (rate(steadytok_notifications_{outcome}_total{{{HOST}}}[$__rate_interval]))"

    return [
        build_time_series(
            "Alerts told to Alertmanager",
            "Per second: sent, not arrived, and dropped because the queue was full. Only /metrics has these.",
            FieldOptions("ops", min=0),
            Query(format_rate("sent"), "{{alertmanager}}: sent"),
            Query(format_rate("errors"), "{{alertmanager}}: failed"),
            Query(format_rate("dropped"), "{{alertmanager}}: dropped"),
        ),
        build_time_series(
            "Rules that cannot be asked, alerts that wait",
            "Rules whose last evaluation ended in an error; the log names them. Alerts queued for an Alertmanager.",
            FieldOptions("short", WARNING, min=0),
            Query(f"steadytok_rules_failing{{{HOST}}}", "failing rules"),
            Query(f"steadytok_notifications_queue_length{{{HOST}}}", "{{alertmanager}}: waiting"),
        ),
    ]


def _build_cost_panels() -> list[Panel]:
    return [
        build_time_series(
            "Processors",
            "Processor time of the agent, its eye (what blocks or needs privilege) and its canary; 100 % is one CPU.",
            FieldOptions("percentunit", min=0),
            Query(
                f"sum by (process) (rate(steadytok_process_cpu_seconds_total{{{HOST}}}[$__rate_interval]))",
                "{{process}}",
            ),
            stacked=True,
        ),
        build_time_series(
            "Memory",
            "In RAM; history is the agent's part that is remembered.",
            FieldOptions("bytes", min=0),
            Query(f"sum by (process) (steadytok_process_resident_bytes{{{HOST}}})", "{{process}}"),
            Query(f"steadytok_history_bytes{{{HOST}}}", "history"),
        ),
        build_time_series(
            "Ticks",
            "What a tick and all rules take, and how late it began. Late by more than an interval: the host is short "
            "of processors.",
            FieldOptions("s", min=0),
            Query(f"steadytok_tick_seconds{{{HOST}}}", "tick"),
            Query(f"steadytok_rules_evaluation_seconds{{{HOST}}}", "rules"),
            Query(f"steadytok_tick_late_seconds{{{HOST}}}", "late"),
        ),
        build_time_series(
            "Series",
            "Remembered, and not remembered because there are too many.",
            FieldOptions("short", min=0),
            Query(f"steadytok_history_series{{{HOST}}}", "remembered"),
            Query(f"steadytok_history_dropped_series{{{HOST}}}", "dropped"),
        ),
    ]
