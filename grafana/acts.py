"""*What did the agent do?*: alerts, remedies and whether they helped, notifications, and what the agent takes."""

from __future__ import annotations

from typing import Any

from grafana.dashboard import Row, alerts_and_remedies, dashboard, grown
from grafana.healthy import BAD, HEADROOM, WORSE
from grafana.panels import HOST, Look, Named, Panel, Query, Right, Steps, number, series, states, table


def build() -> dict[str, Any]:
    """The dashboard."""
    return dashboard(
        "steadytok-acts",
        "What did the agent do?",
        "Which alerts fired, which remedies acted on them, whether they helped, and what the agent takes for itself.",
        [
            Row("Remedies now", [*_now(), _totals()]),
            Row("What happened", [_alerts(), _acting(), _events()]),
            Row("Did it help?", _effect()),
            Row("Was it told?", _told()),
            Row("What the agent takes", _cost()),
        ],
        annotations=alerts_and_remedies(HOST),
        since="now-6h",
    )


def _now() -> list[Panel]:
    mode: tuple[Named, ...] = (("0", "observing", "text"), ("1", "enforcing", "blue"))
    yes: tuple[Named, ...] = (("0", "no", "green"), ("1", "yes", "orange"))
    halted: tuple[Named, ...] = (("0", "no", "green"), ("1", "yes", "red"))
    asked = (
        ("Mode", "Observing: remedies say what they would do. Enforcing: they do it.",
         f"max(steadytok_remedies_enforcing{{{HOST}}})", Look("short", mappings=mode)),
        ("Paused", "By name, or by the kill-switch file.",
         f"max(steadytok_remedies_paused{{{HOST}}})", Look("short", mappings=yes)),
        ("Halted", "No remedy acts because the journal cannot be used.",
         f"max(steadytok_remedies_halted{{{HOST}}})", Look("short", mappings=halted)),
        ("Acting", "Alerts that a remedy acts on now.",
         f"count(steadytok_remedy_running{{{HOST}}}) or vector(0)", Look("short", Steps("green", ((1, "blue"),)))),
        ("Failed", "Firing alerts whose newest act failed or did not help.",
         f"count(steadytok_remedy_failed{{{HOST}}}) or vector(0)", Look("short", WORSE)),
        ("Gave up", "Remedies that wait for somebody: steadytok remedies resume.",
         f"count(steadytok_remedy_gave_up{{{HOST}}}) or vector(0)", Look("short", BAD)),
    )  # fmt: skip
    return [number(title, description, look, Query(expr, title)) for title, description, expr, look in asked]


def _totals() -> Panel:
    return table(
        "By remedy since the agent started",
        "The words of the diary; steadytok remedies audit has each entry with its reason.",
        Look("short", decimals=0),
        {"remedy": "Remedy", "event": "What happened", "Value": "Times"},
        Query(f"sum by (remedy, event) (steadytok_remedy_events_total{{{HOST}}}) > 0", ""),
        sort=("Times", True),
        width=24,
        height=6,
    )


def _alerts() -> Panel:
    def state(name: str) -> str:
        return f'max by (alertname) (sgn(steadytok_alerts{{{HOST},severity!="none",alertstate="{name}"}}))'

    return states(
        "Alerts",
        "When each was pending (1) and firing (2).",
        Look("short", mappings=(("1", "pending", "yellow"), ("2", "firing", "red"))),
        Query(f"2 * {state('firing')} or {state('pending')}", "{{alertname}}"),
    )


def _acting() -> Panel:
    return states(
        "Remedies",
        "While a remedy acts, has failed, or has given up.",
        Look("short", mappings=(("1", "acting", "blue"), ("2", "failed", "orange"), ("3", "gave up", "red"))),
        Query(
            f"3 * max by (remedy, for_alert) (steadytok_remedy_gave_up{{{HOST}}}) or "
            f"2 * max by (remedy, for_alert) (steadytok_remedy_failed{{{HOST}}}) or "
            f"max by (remedy, for_alert) (steadytok_remedy_running{{{HOST}}})",
            "{{remedy}} for {{for_alert}}",
        ),
        height=6,
    )


def _events() -> Panel:
    return series(
        "Entries of the diary",
        "What happened to remedies, by the diary's words, within the minute (or longer step) before each point.",
        Look("short", least=0, decimals=0),
        Query(
            f"sum by (remedy, event) ({grown(f'steadytok_remedy_events_total{{{HOST}}}', '$__rate_interval')})",
            "{{remedy}}: {{event}}",
        ),
        stacked=True,
        width=24,
    )


def _effect() -> list[Panel]:
    return [
        series(
            "Duty and speed",
            "Tokens per second of each engine. Right: share of the time that we let it work, and that it applies.",
            Look("short", least=0),
            Query(f"max by (engine) (steadytok_engine_tokens_per_second{{{HOST}}})", "{{engine}}"),
            Query(f"min by (engine) (steadytok_pace_duty{{{HOST}}})", "{{engine}}: our duty"),
            Query(f"min by (engine) (steadytok_engine_duty{{{HOST}}})", "{{engine}}: its duty"),
            right=Right("duty$", "percentunit"),
        ),
        series(
            "Degrees left of the hottest modules",
            "The five that are closest to their limits; below 0 firmware slows memory.",
            Look("celsius", Steps(HEADROOM.first, HEADROOM.above, area=True)),
            Query(f"bottomk(5, min by (dimm) (steadytok_dimm_headroom_celsius{{{HOST}}}))", "{{dimm}}"),
        ),
    ]


def _told() -> list[Panel]:
    def per_second(what: str) -> str:
        return f"sum by (alertmanager) (rate(steadytok_notifications_{what}_total{{{HOST}}}[$__rate_interval]))"

    return [
        series(
            "Alerts told to Alertmanager",
            "Per second: sent, not arrived, and dropped because the queue was full. Only /metrics has these.",
            Look("ops", least=0),
            Query(per_second("sent"), "{{alertmanager}}: sent"),
            Query(per_second("errors"), "{{alertmanager}}: failed"),
            Query(per_second("dropped"), "{{alertmanager}}: dropped"),
        ),
        series(
            "Rules that cannot be asked, alerts that wait",
            "Rules whose last evaluation ended in an error; the log names them. Alerts queued for an Alertmanager.",
            Look("short", WORSE, least=0),
            Query(f"steadytok_rules_failing{{{HOST}}}", "failing rules"),
            Query(f"steadytok_notifications_queue_length{{{HOST}}}", "{{alertmanager}}: waiting"),
        ),
    ]


def _cost() -> list[Panel]:
    return [
        series(
            "Processors",
            "Processor time of the agent, its eye (what blocks or needs privilege) and its canary; 100 % is one CPU.",
            Look("percentunit", least=0),
            Query(
                f"sum by (process) (rate(steadytok_process_cpu_seconds_total{{{HOST}}}[$__rate_interval]))",
                "{{process}}",
            ),
            stacked=True,
        ),
        series(
            "Memory",
            "In RAM; history is the agent's part that is remembered.",
            Look("bytes", least=0),
            Query(f"sum by (process) (steadytok_process_resident_bytes{{{HOST}}})", "{{process}}"),
            Query(f"steadytok_history_bytes{{{HOST}}}", "history"),
        ),
        series(
            "Ticks",
            "What a tick and all rules take, and how late it began. Late by more than an interval: the host is short "
            "of processors.",
            Look("s", least=0),
            Query(f"steadytok_tick_seconds{{{HOST}}}", "tick"),
            Query(f"steadytok_rules_evaluation_seconds{{{HOST}}}", "rules"),
            Query(f"steadytok_tick_late_seconds{{{HOST}}}", "late"),
        ),
        series(
            "Series",
            "Remembered, and not remembered because there are too many.",
            Look("short", least=0),
            Query(f"steadytok_history_series{{{HOST}}}", "remembered"),
            Query(f"steadytok_history_dropped_series{{{HOST}}}", "dropped"),
        ),
    ]
