"""The metrics that the agent measures about itself; every other metric comes from a collector or a rule."""

from __future__ import annotations

from agent.pacing import metrics
from collectors import counter, gauge

SAMPLING_GROUP = "agent"  # History's group of these metrics

SUCCESS = gauge("steadytok_collector_success", "1 if the collector's last pass gave its readings, 0 if it failed.")
DURATION = gauge("steadytok_collector_duration_seconds", "Elapsed time of the collector's last pass.")
CPU = gauge("steadytok_collector_cpu_seconds", "Processor time of the collector's last pass.")
AGE = gauge("steadytok_collector_age_seconds", "How long ago the collector's newest good reading began.")
INTERVAL = gauge("steadytok_collector_interval_seconds", "Current time between the collector's passes.")
OVERRUNS = counter("steadytok_collector_overruns_total", "Passes that were due before the previous one had returned.")
MISSING = gauge("steadytok_collector_missing_readings", "Readings that the last pass could not get.")
MISSING_SERIES = gauge(
    "steadytok_collector_missing_series",
    "Series that the collector gave before and has lost since a file became unreadable, though its passes succeed.",
)

TOKENS_PER_SECOND = gauge(
    "steadytok_engine_tokens_per_second", "Decoded tokens per second of decoding, over the last half minute."
)
BASELINE = gauge(
    "steadytok_engine_baseline_tokens_per_second", "Tokens per second of the engine when nothing slows it."
)
PLACEMENT_DRIFT = gauge(
    "steadytok_process_placement_drift",
    "Share of the process's pages, 0 to 1, that are on another node than while the baseline was learnt.",
)
PACE_DUTY = gauge("steadytok_pace_duty", "Decode-seconds per second that the agent allows the engine: 0.1 to 1.")
CANARY = gauge("steadytok_engine_canary", "1 for the bundled reference engine that the agent runs as a canary.")
CONFIGURED = gauge("steadytok_engine_configured", "1 for an engine that the configuration names.")
RULES_FAILING = gauge("steadytok_rules_failing", "Rules whose last evaluation failed; the log names them.")
RULES_SECONDS = gauge("steadytok_rules_evaluation_seconds", "Time of the last evaluation of all rules.")
ALERTS = gauge("steadytok_alerts", "Alerts by name, severity and state (pending, firing); a scrape has no ALERTS.")
TICK_SECONDS = gauge("steadytok_tick_seconds", "Time that the last tick took after its readings had arrived.")
TICK_LATE = gauge("steadytok_tick_late_seconds", "How late the last tick began.")
STEP_FAULTS = counter(
    "steadytok_step_faults_total", "Failures of a step of the tick, or of a scheduled job; the log has their reasons."
)
HISTORY_SERIES = gauge("steadytok_history_series", "Series in History.")
HISTORY_BYTES = gauge("steadytok_history_bytes", "Memory that History uses.")
HISTORY_DROPPED = gauge(
    "steadytok_history_dropped_series", "Series that History does not record because there are too many."
)
HISTORY_CONFLICTS = gauge(
    "steadytok_history_conflicts", "Series that two collectors gave; History records the first one's."
)
REMEDY_RUNNING = gauge("steadytok_remedy_running", "1 while a remedy acts for an alert, whose labels it has.")
REMEDY_FAILED = gauge("steadytok_remedy_failed", "1 while the newest act for a firing alert failed or did not help.")
REMEDY_GAVE_UP = gauge("steadytok_remedy_gave_up", "1 while a remedy has given up, until it is resumed.")
REMEDY_EVENTS = counter("steadytok_remedy_events_total", "Events of each remedy, by their name in the audit log.")
REMEDIES_ENFORCING = gauge("steadytok_remedies_enforcing", "1 where remedies act, 0 where they only observe.")
REMEDIES_HALTED = gauge("steadytok_remedies_halted", "1 while no remedy acts because its journal cannot be used.")
REMEDIES_PAUSED = gauge("steadytok_remedies_paused", "1 while remedies are paused, by name or by the kill-switch file.")
UEVENT_OVERFLOWS = gauge("steadytok_uevent_overflows", "Times that uevents were lost, and all hardware was read again.")
PROCESS_CPU = counter("steadytok_process_cpu_seconds_total", "Processor time of the agent, its eye and its canary.")
PROCESS_RESIDENT = gauge("steadytok_process_resident_bytes", "Memory in RAM of the agent, its eye and its canary.")
BUILD_INFO = gauge("steadytok_build_info", "1, with the version that runs.")

METRICS = (
    SUCCESS,
    DURATION,
    CPU,
    AGE,
    INTERVAL,
    OVERRUNS,
    MISSING,
    MISSING_SERIES,
    TOKENS_PER_SECOND,
    BASELINE,
    PLACEMENT_DRIFT,
    PACE_DUTY,
    CANARY,
    CONFIGURED,
    RULES_FAILING,
    RULES_SECONDS,
    ALERTS,
    TICK_SECONDS,
    TICK_LATE,
    STEP_FAULTS,
    HISTORY_SERIES,
    HISTORY_BYTES,
    HISTORY_DROPPED,
    HISTORY_CONFLICTS,
    REMEDY_RUNNING,
    REMEDY_FAILED,
    REMEDY_GAVE_UP,
    REMEDY_EVENTS,
    REMEDIES_ENFORCING,
    REMEDIES_HALTED,
    REMEDIES_PAUSED,
    UEVENT_OVERFLOWS,
    PROCESS_CPU,
    PROCESS_RESIDENT,
    BUILD_INFO,
    *metrics.METRICS,
)
