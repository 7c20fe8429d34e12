"""What the agent says about itself at each tick: how its collectors do, and how the engines should."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from agent.actions import pace
from agent.alerting.labels import SOURCE
from agent.engines.baseline import Baseline
from agent.pacing import inputs, metrics
from agent.pacing.learner import PlantLearner
from agent.remediation import catalog
from agent.remediation.model import Phase
from agent.remediation.remediator import Remediator
from agent.sampling.sampler import CollectorState, Outcome, Sampler
from agent.selfmetrics import definitions
from collectors import Labels, Metric, Reading
from rules.alerts import AlertState
from rules.evaluator import RuleEvaluator
from rules.history.history import History

_SUCCESS_VALUES = {Outcome.OK: 1.0, Outcome.FAILED: 0.0}


def declare_derived(history: History, baseline: Baseline) -> None:
    """
    Says which of the agent's own series are made of a collector's: they are as silent as it is.

    Without this a placement that nobody can read any more looked like one that is right again.
    """
    history.derive(definitions.TOKENS_PER_SECOND.name, baseline.source_metrics("now"))
    history.derive(definitions.PLACEMENT_DRIFT.name, baseline.source_metrics("placed"))
    for metric in (metrics.SET_POINT, metrics.MEASURED, metrics.ERROR):
        history.derive(metric.name, [inputs.HEADROOM_METRIC])


def read_collectors(sampler: Sampler, now: float, stale_after: int) -> Iterator[Reading]:
    """
    The state of each collector that this machine has work for.

    One whose hardware is absent, or that this user may not read, has no success: neither is a failure, and an alert
    about it would never end.
    """
    silent = set(sampler.find_silent(now, stale_after))
    for name, state in sampler.states.items():
        yield from _read_collector(name, state, now, silent=name in silent)


def _read_collector(name: str, state: CollectorState, now: float, *, silent: bool) -> Iterator[Reading]:
    # One that was well and has fallen silent is not well, whatever its last pass said.
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


def read_engines(
    baseline: Baseline,
    history: History,
    now_ms: int,
    configured: Iterable[str],
    canary: str | None,
    duties: Mapping[str, float],
) -> Iterator[Reading]:
    """Each engine's speed now and what it should be, the duty it is held at, and how far its memory has strayed."""
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


def read_pacing(thermals: PlantLearner, remedies: Remediator) -> Iterator[Reading]:
    """What heats each engine's DIMMs, what pacing would be worth, and what the controllers at work do."""
    yield from thermals.readings()
    for act, controllers in remedies.iter_steered():
        if isinstance(controllers, pace.PaceControllers):
            engine = catalog.find_paced_engine(act.means) or act.resource.removeprefix("pace ")
            tightest = min(controllers.by_remedy.values(), key=lambda steering: steering.state.duty)
            yield from metrics.report_state(engine, tightest.state)


def read_remedies(remedies: Remediator) -> Iterator[Reading]:
    """What remedies do, with the labels of their alerts: the rules about remedies ask for these."""
    yield definitions.REMEDIES_ENFORCING.sample(0.0 if remedies.is_observing else 1.0)
    yield definitions.REMEDIES_HALTED.sample(1.0 if remedies.halted else 0.0)
    yield definitions.REMEDIES_PAUSED.sample(1.0 if remedies.state.pauses or remedies.is_killed else 0.0)
    for (remedy, event), count in remedies.counts.items():
        yield definitions.REMEDY_ACTS.sample(float(count), remedy=remedy, event=event)
    if remedies.is_observing:
        return
    series: dict[tuple[Metric, Labels], None] = {}  # several acts may be for one alert
    state = remedies.state
    for act in (act for act in state.acts if not act.observed and act.phase is not Phase.RELEASING):
        for claim in act.claims:
            series[definitions.REMEDY_RUNNING, _relabel(claim.remedy, claim.labels)] = None
    for episode in (episode for episode in state.sessions if episode.failed):
        series[definitions.REMEDY_FAILED, _relabel(episode.remedy, episode.labels)] = None
    for latch in state.latches:
        series[definitions.REMEDY_GAVE_UP, _relabel(latch.remedy, latch.labels)] = None
    for metric, labels in series:
        yield metric.sample(1.0, **dict(labels))


def _relabel(remedy: str, labels: Labels) -> Labels:
    """The alert's labels, its name as for_alert and without its severity: that is the remedy's own."""
    remaining = {name: value for name, value in labels if name not in ("alertname", "severity", SOURCE)}
    return tuple({**remaining, "for_alert": dict(labels).get("alertname", ""), "remedy": remedy}.items())


def read_rules(rules: RuleEvaluator) -> Iterator[Reading]:
    """How the rules fare, and how many alerts they have."""
    health = rules.health
    yield definitions.RULES_FAILING.sample(sum(rule.health == "err" for rule in health))
    yield definitions.RULES_SECONDS.sample(sum(rule.duration_seconds for rule in health))
    active = (alert for alert in rules.alerts() if alert.state is not AlertState.RESOLVED)
    counts = Counter((alert.name, dict(alert.labels).get("severity", ""), alert.state.value) for alert in active)
    for (name, severity, state), count in counts.items():
        yield definitions.ALERTS.sample(count, alertname=name, severity=severity, alertstate=state)


def read_history(history: History) -> Iterator[Reading]:
    """What remembering takes, and what was not remembered."""
    yield definitions.HISTORY_SERIES.sample(history.series_count())
    yield definitions.HISTORY_BYTES.sample(history.count_bytes())
    yield definitions.HISTORY_DROPPED.sample(history.dropped_series)
    yield definitions.HISTORY_CONFLICTS.sample(history.conflicts)
