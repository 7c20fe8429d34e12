"""*What did the agent do?*: alerts, remedies and their effect, notifications, and the agent's own cost."""

from __future__ import annotations

from typing import Any

from grafana.dashboard import DashboardRow, build_annotations, build_dashboard, format_growth
from grafana.healthy import CRITICAL, HEADROOM, WARNING
from grafana.panels import (
    HOST,
    FieldOptions,
    PanelJson,
    PanelTarget,
    RightAxis,
    Thresholds,
    ValueMapping,
    build_stat,
    build_state_timeline,
    build_table,
    build_time_series,
)


def build() -> dict[str, Any]:
    """Returns the dashboard."""
    return build_dashboard(
        "steadytok-acts",
        "What did the agent do?",
        "Which alerts fired, which remedies acted on them, whether they helped, and what the agent itself costs.",
        [
            DashboardRow("Remedies now", [*_build_status_panels(), _build_totals_panel()]),
            DashboardRow("What happened", [_build_alerts_panel(), _build_remedies_panel(), _build_events_panel()]),
            DashboardRow("Did it help?", _build_effect_panels()),
            DashboardRow("Who was notified?", _build_notification_panels()),
            DashboardRow("What does the agent cost?", _build_cost_panels()),
        ],
        annotations=build_annotations(HOST),
        since="now-6h",
    )


def _build_status_panels() -> list[PanelJson]:
    mode: tuple[ValueMapping, ...] = (("0", "observing", "text"), ("1", "enforcing", "blue"))
    yes_no: tuple[ValueMapping, ...] = (("0", "no", "green"), ("1", "yes", "orange"))
    halted: tuple[ValueMapping, ...] = (("0", "no", "green"), ("1", "yes", "red"))
    stats = (
        ("Mode", "Observing: remedies only log their plans. Enforcing: remedies act.",
         f"max(steadytok_remedies_enforcing{{{HOST}}})", FieldOptions("short", mappings=mode)),
        ("Paused", "Yes while a remedy is paused by name, or all are by the kill-switch file.",
         f"max(steadytok_remedies_paused{{{HOST}}})", FieldOptions("short", mappings=yes_no)),
        ("Halted", "No remedy acts because the journal cannot be used.",
         f"max(steadytok_remedies_halted{{{HOST}}})", FieldOptions("short", mappings=halted)),
        ("Acting", "Alerts with a remedy that acts now.",
         f"count(steadytok_remedy_running{{{HOST}}}) or vector(0)",
         FieldOptions("short", Thresholds("green", ((1, "blue"),)))),
        ("Failed", "Firing alerts whose last action failed or did not help.",
         f"count(steadytok_remedy_failed{{{HOST}}}) or vector(0)", FieldOptions("short", WARNING)),
        ("Gave up", "Remedies that stopped; continue them with steadytok remedies resume.",
         f"count(steadytok_remedy_gave_up{{{HOST}}}) or vector(0)", FieldOptions("short", CRITICAL)),
    )  # fmt: skip
    return [
        build_stat(title, description, field_options, PanelTarget(expr, title))
        for title, description, expr, field_options in stats
    ]


def _build_totals_panel() -> PanelJson:
    return build_table(
        "By remedy since the agent started",
        "Events of the audit log; steadytok remedies audit lists each entry with its reason.",
        FieldOptions("short", decimals=0),
        {"remedy": "Remedy", "event": "Event", "Value": "Times"},
        PanelTarget(f"sum by (remedy, event) (steadytok_remedy_events_total{{{HOST}}}) > 0", ""),
        sort=("Times", True),
        width=24,
        height=6,
    )


def _build_alerts_panel() -> PanelJson:
    def format_state(name: str) -> str:
        return f'max by (alertname) (sgn(steadytok_alerts{{{HOST},severity!="none",alertstate="{name}"}}))'

    return build_state_timeline(
        "Alerts",
        "Each alert's state over time: pending (1) and firing (2).",
        FieldOptions("short", mappings=(("1", "pending", "yellow"), ("2", "firing", "red"))),
        PanelTarget(f"2 * {format_state('firing')} or {format_state('pending')}", "{{alertname}}"),
    )


def _build_remedies_panel() -> PanelJson:
    return build_state_timeline(
        "Remedies",
        "Each remedy's state over time: acting, failed, or gave up.",
        FieldOptions("short", mappings=(("1", "acting", "blue"), ("2", "failed", "orange"), ("3", "gave up", "red"))),
        PanelTarget(
            f"3 * max by (remedy, for_alert) (steadytok_remedy_gave_up{{{HOST}}}) or "
            f"2 * max by (remedy, for_alert) (steadytok_remedy_failed{{{HOST}}}) or "
            f"max by (remedy, for_alert) (steadytok_remedy_running{{{HOST}}})",
            "{{remedy}} for {{for_alert}}",
        ),
        height=6,
    )


def _build_events_panel() -> PanelJson:
    return build_time_series(
        "Remedy events",
        "Entries of the audit log within the minute (or longer step) before each point.",
        FieldOptions("short", min=0, decimals=0),
        PanelTarget(
            f"sum by (remedy, event) ({format_growth(f'steadytok_remedy_events_total{{{HOST}}}', '$__rate_interval')})",
            "{{remedy}}: {{event}}",
        ),
        stacked=True,
        width=24,
    )


def _build_effect_panels() -> list[PanelJson]:
    return [
        build_time_series(
            "Duty and speed",
            "Tokens per second of each engine. Right: the duty that the agent sets, and the engine's reported duty.",
            FieldOptions("short", min=0),
            PanelTarget(f"max by (engine) (steadytok_engine_tokens_per_second{{{HOST}}})", "{{engine}}"),
            PanelTarget(f"min by (engine) (steadytok_pace_duty{{{HOST}}})", "{{engine}}: set duty"),
            PanelTarget(f"min by (engine) (steadytok_engine_duty{{{HOST}}})", "{{engine}}: reported duty"),
            right_axis=RightAxis("duty$", "percentunit"),
        ),
        build_time_series(
            "Degrees left of the hottest modules",
            "The five modules that are closest to their limits; below 0 firmware slows memory.",
            FieldOptions("celsius", Thresholds(HEADROOM.base, HEADROOM.steps, area=True)),
            PanelTarget(f"bottomk(5, min by (dimm) (steadytok_dimm_headroom_celsius{{{HOST}}}))", "{{dimm}}"),
        ),
    ]


def _build_notification_panels() -> list[PanelJson]:
    def format_rate(outcome: str) -> str:
        return f"sum by (alertmanager) (rate(steadytok_notifications_{outcome}_total{{{HOST}}}[$__rate_interval]))"

    return [
        build_time_series(
            "Alerts sent to Alertmanager",
            "Alerts per second: sent, failed, and dropped from a full queue.",
            FieldOptions("ops", min=0),
            PanelTarget(format_rate("sent"), "{{alertmanager}}: sent"),
            PanelTarget(format_rate("errors"), "{{alertmanager}}: failed"),
            PanelTarget(format_rate("dropped"), "{{alertmanager}}: dropped"),
        ),
        build_time_series(
            "Failing rules and queued alerts",
            "Rules whose last evaluation failed; the log names them. Alerts queued for an Alertmanager.",
            FieldOptions("short", WARNING, min=0),
            PanelTarget(f"steadytok_rules_failing{{{HOST}}}", "failing rules"),
            PanelTarget(f"steadytok_notifications_queue_length{{{HOST}}}", "{{alertmanager}}: waiting"),
        ),
    ]


def _build_cost_panels() -> list[PanelJson]:
    return [
        build_time_series(
            "Processors",
            "Processor time of the agent, of its eye (reads that block or need privilege) and of its canary. 100 % is "
            "one CPU.",
            FieldOptions("percentunit", min=0),
            PanelTarget(
                f"sum by (process) (rate(steadytok_process_cpu_seconds_total{{{HOST}}}[$__rate_interval]))",
                "{{process}}",
            ),
            stacked=True,
        ),
        build_time_series(
            "Memory",
            "Resident memory of each process; history is the part for stored samples.",
            FieldOptions("bytes", min=0),
            PanelTarget(f"sum by (process) (steadytok_process_resident_bytes{{{HOST}}})", "{{process}}"),
            PanelTarget(f"steadytok_history_bytes{{{HOST}}}", "history"),
        ),
        build_time_series(
            "Ticks",
            "Time of a tick and of all rules, and the delay of the tick. A delay of more than an interval means that "
            "the host is short of processors.",
            FieldOptions("s", min=0),
            PanelTarget(f"steadytok_tick_seconds{{{HOST}}}", "tick"),
            PanelTarget(f"steadytok_rules_evaluation_seconds{{{HOST}}}", "rules"),
            PanelTarget(f"steadytok_tick_late_seconds{{{HOST}}}", "late"),
        ),
        build_time_series(
            "Series",
            "Series in the history, and series dropped because there are too many.",
            FieldOptions("short", min=0),
            PanelTarget(f"steadytok_history_series{{{HOST}}}", "stored"),
            PanelTarget(f"steadytok_history_dropped_series{{{HOST}}}", "dropped"),
        ),
    ]
