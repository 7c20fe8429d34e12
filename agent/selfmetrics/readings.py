"""Reads the self-metrics of one tick from collectors, engines, rules, remedies and History."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from agent.actions import pace
from agent.alerting.identity import SOURCE
from agent.engines.baseline import Baseline
from agent.pacing import inputs, metrics
from agent.pacing.learner import PlantLearner
from agent.remediation import catalog
from agent.remediation.model import Phase
from agent.remediation.remediator import Remediator
from agent.sampling.collector_state import CollectorState
from agent.sampling.passes import Outcome
from agent.sampling.sampler import Sampler
from agent.selfmetrics import definitions
from collectors import Labels, Metric, Reading
from rules.alerts import AlertState
from rules.evaluator import RuleEvaluator
from rules.history.history import History

_SUCCESS_VALUES = {Outcome.OK: 1.0, Outcome.FAILED: 0.0}


def declare_derived(history: History, baseline: Baseline) -> None:
    """
    Declares which self-metrics derive from a collector's metrics: they end when the collector falls silent.

    Without this, a placement that can no longer be read would look like a placement that is right again.
    """
    history.derive(definitions.TOKENS_PER_SECOND.name, baseline.source_metrics("now"))
    history.derive(definitions.PLACEMENT_DRIFT.name, baseline.source_metrics("placed"))
    for metric in (metrics.SET_POINT, metrics.MEASURED, metrics.ERROR):
        history.derive(metric.name, [inputs.HEADROOM_METRIC])


def read_collectors(sampler: Sampler, now: float, stale_after: int) -> Iterator[Reading]:
    """
    Reads the state of each collector whose hardware this machine has.

    A collector that this user may not read has no success metric: that is no failure, and its alert would never end.
    """
    silent = set(sampler.find_silent(now, stale_after))
    for name, state in sampler.states.items():
        yield from _read_collector(name, state, now, silent=name in silent)


def _read_collector(name: str, state: CollectorState, now: float, *, silent: bool) -> Iterator[Reading]:
    # A collector that has fallen silent fails, even if its last pass succeeded.
    outcome = Outcome.FAILED if silent and state.outcome is Outcome.OK else state.outcome
    if outcome in (None, Outcome.ABSENT):
        return
    yield definitions.SUCCESS.sample(_SUCCESS_VALUES.get(outcome) if outcome else None, collector=name)
    yield definitions.AGE.sample(max(0.0, state.age(now)), collector=name)
    yield definitions.OVERRUNS.sample(state.overruns, collector=name)
    yield definitions.INTERVAL.sample(state.interval, collector=name)
    if state.last_result is not None:
        yield definitions.DURATION.sample(state.last_result.seconds, collector=name)
        yield definitions.CPU.sample(state.last_result.cpu_seconds, collector=name)
        yield definitions.MISSING.sample(len(state.last_result.notes), collector=name)
        yield definitions.MISSING_SERIES.sample(state.partial_loss.missing_series, collector=name)


def read_engines(
    baseline: Baseline,
    history: History,
    now_ms: int,
    configured: Iterable[str],
    canary: str | None,
    duties: Mapping[str, float],
) -> Iterator[Reading]:
    """Reads each engine's speed, baseline speed and duty, and how far its memory has moved to other nodes."""
    for engine, speed in baseline.query_speeds(history, now_ms).items():
        yield definitions.TOKENS_PER_SECOND.sample(speed, engine=engine)
    for engine, rank, drift in baseline.iter_drifts(history, now_ms):
        yield definitions.PLACEMENT_DRIFT.sample(drift, engine=engine, rank=rank)
    for engine in configured:
        yield definitions.CONFIGURED.sample(1.0, engine=engine)
        yield from _read_engine(baseline, engine, duties)
    if canary is not None:
        yield definitions.CANARY.sample(1.0, engine=canary)
        yield from _read_engine(baseline, canary, duties)


def _read_engine(baseline: Baseline, engine: str, duties: Mapping[str, float]) -> Iterator[Reading]:
    yield definitions.BASELINE.sample(baseline.expected_speed(engine), engine=engine)
    yield definitions.PACE_DUTY.sample(duties.get(engine, 1.0), engine=engine)


def read_pacing(plant_learner: PlantLearner, remediator: Remediator) -> Iterator[Reading]:
    """Reads the thermal model of each engine's DIMMs, the benefit of pacing, and the state of active controllers."""
    yield from plant_learner.readings()
    for act, controllers in remediator.iter_steered():
        if isinstance(controllers, pace.PaceControllers):
            engine = catalog.find_paced_engine(act.undo_recipe) or act.resource.removeprefix("pace ")
            tightest = min(controllers.by_remedy.values(), key=lambda steering: steering.state.duty)
            yield from metrics.report_state(engine, tightest.state)


def read_remedies(remediator: Remediator) -> Iterator[Reading]:
    """Reads the state of remedies, with the labels of their alerts, for the rules about remedies."""
    yield definitions.REMEDIES_ENFORCING.sample(0.0 if remediator.is_observing else 1.0)
    yield definitions.REMEDIES_HALTED.sample(1.0 if remediator.halted else 0.0)
    yield definitions.REMEDIES_PAUSED.sample(1.0 if remediator.state.pauses or remediator.is_killed else 0.0)
    for (remedy, event), count in remediator.audit.counts.items():
        yield definitions.REMEDY_EVENTS.sample(float(count), remedy=remedy, event=event)
    if remediator.is_observing:
        return
    series: dict[tuple[Metric, Labels], None] = {}  # several acts may serve one alert
    state = remediator.state
    for act in (act for act in state.acts if not act.observed and act.phase is not Phase.RELEASING):
        for claim in act.claims:
            series[definitions.REMEDY_RUNNING, _relabel(claim.remedy, claim.labels)] = None
    for episode in (episode for episode in state.episodes if episode.failed):
        series[definitions.REMEDY_FAILED, _relabel(episode.remedy, episode.labels)] = None
    for latch in state.latches:
        series[definitions.REMEDY_GAVE_UP, _relabel(latch.remedy, latch.labels)] = None
    for metric, labels in series:
        yield metric.sample(1.0, **dict(labels))


def _relabel(remedy: str, labels: Labels) -> Labels:
    """Returns the alert's labels with its name as `for_alert`; without severity, which the remedy's alert sets."""
    remaining = {name: value for name, value in labels if name not in ("alertname", "severity", SOURCE)}
    return tuple({**remaining, "for_alert": dict(labels).get("alertname", ""), "remedy": remedy}.items())


def read_rules(rules: RuleEvaluator) -> Iterator[Reading]:
    """Reads the health of the rules, and counts their alerts."""
    health = rules.health
    yield definitions.RULES_FAILING.sample(sum(rule.health == "err" for rule in health))
    yield definitions.RULES_SECONDS.sample(sum(rule.duration_seconds for rule in health))
    active = (alert for alert in rules.list_alerts() if alert.state is not AlertState.RESOLVED)
    counts = Counter((alert.name, dict(alert.labels).get("severity", ""), alert.state.value) for alert in active)
    for (name, severity, state), count in counts.items():
        yield definitions.ALERTS.sample(count, alertname=name, severity=severity, alertstate=state)


def read_history(history: History) -> Iterator[Reading]:
    """Reads the size of History, and the series that it dropped."""
    yield definitions.HISTORY_SERIES.sample(history.count_series())
    yield definitions.HISTORY_BYTES.sample(history.count_bytes())
    yield definitions.HISTORY_DROPPED.sample(history.dropped_series)
    yield definitions.HISTORY_CONFLICTS.sample(history.conflicts)
