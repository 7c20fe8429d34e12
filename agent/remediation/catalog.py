"""Loads the built-in remedies and the operator's, checks them together and binds them to their actions."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from agent import actions
from agent.actions import Action, Task
from agent.alerting.matchers import build_matcher, parse_matchers
from agent.config.loader import ConfigError
from agent.config.schema import AgentConfig, RemedySettings
from agent.pacing.settings import ControlSettings
from agent.remediation import plugins
from agent.remediation.action_defaults import complete_action
from agent.remediation.contradictions import find_contradictions
from agent.remediation.model import Remedy
from agent.runtime.entry_points import PluginError
from agent.text.units import format_duration, parse_duration
from rules import promql
from rules.matchers import Matcher, Matchers
from rules.templates.template import Template, TemplateError

BUILTIN_FILE = Path(actions.__path__[0]) / "builtin.yml"
EACH_ENGINE = "each"
"""As `target.engine`: one remedy for each engine of the configuration."""

_ALERT_NAME = r"[\p{L}\p{N}_][\p{L}\p{M}\p{N} _.,:/-]{0,127}"
"""Words of any language, such as "ICMP ping failed"; nothing that a shell, a page or a terminal could take for more."""

_COOLDOWN_RANGE = (10.0, 7 * 86400.0)
_IRREVERSIBLE_LIMITS = (60.0, 12)
"""The least cooldown in seconds, and the most acts in an hour, of an action that cannot be undone."""
_WITHIN_RANGE = (1.0, 3600.0)


def bind_remedies(config: AgentConfig, source: str) -> tuple[Remedy, ...]:
    """Returns every remedy; raises ConfigError with all faults, each with its path."""
    remedies = [
        *_load_builtin(config),
        *((f"$.remedies[{index}]", remedy) for index, remedy in enumerate(config.remedies)),
    ]
    available = plugins.load_actions({remedy.action for _, remedy in remedies})
    binder = _Binder(config, available)
    bound = [remedy for path, settings in remedies for remedy in binder.bind(path, settings)]
    binder.faults += _check_all(config, [settings for _, settings in remedies])
    if binder.faults:
        raise ConfigError([f"{source}: {path}: {expected}" for path, expected in binder.faults])
    return tuple(bound)


def _load_builtin(config: AgentConfig) -> Iterator[tuple[str, RemedySettings]]:
    if not config.remediation.builtin:
        return
    excluded = {remedy.name for remedy in config.remedies} | set(config.remediation.disable)
    for entry in yaml.safe_load(BUILTIN_FILE.read_text(encoding="utf-8")):
        if entry["name"] not in excluded:
            verify = {**entry.get("verify", {})}
            seconds = {"cooldown": parse_duration(entry["cooldown"])}
            within = {"within": parse_duration(verify["within"])} if "within" in verify else {}
            settings = msgspec.convert({**entry, **seconds, "verify": {**verify, **within}}, RemedySettings)
            yield f"{BUILTIN_FILE.name}: {settings.name}", settings


def _check_all(config: AgentConfig, remedies: list[RemedySettings]) -> Iterator[tuple[str, str]]:
    names = [remedy.name for remedy in remedies]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield "$.remedies", f"expected names to differ, found {name!r} twice"
    shipped = {entry["name"] for entry in yaml.safe_load(BUILTIN_FILE.read_text(encoding="utf-8"))}
    for name in sorted(set(config.remediation.disable) - shipped):
        yield (
            "$.remediation.disable",
            f"no remedy that ships is named {name!r}; there are: {', '.join(sorted(shipped))}",
        )
    hand = config.remediation.hand
    if hand not in ("socket", "direct") and not hand.startswith("/"):
        yield "$.remediation.hand", f"expected socket, direct or an absolute path, found {hand!r}"
    if config.remediation.silences and not config.alerting.alertmanagers:
        yield "$.remediation.silences", "expected alertmanagers under alerting: they have the silences"
    if not config.remediation.pause_file.startswith("/"):
        yield "$.remediation.pause_file", f"expected an absolute path, found {config.remediation.pause_file!r}"


class _Binder:
    """Binds one remedy after another and collects every fault."""

    def __init__(self, config: AgentConfig, available: Mapping[str, object]) -> None:
        self._engines = {engine.name: engine.url for engine in config.engines}
        self._instance = config.build_external_labels()["instance"]
        self._available = available
        self.faults: list[tuple[str, str]] = []

    def bind(self, path: str, settings: RemedySettings) -> list[Remedy]:
        """Returns the remedy, or one for each engine; nothing if it has a fault."""
        fault_count = len(self.faults)
        match = tuple(self._parse_match(path, settings))
        self.faults += _check_bounds(path, settings)
        trusted = tuple(self._parse_trusted(path, settings, match))
        if len(self.faults) == fault_count:
            self.faults += [
                (f"{path}.match", fault) for fault in find_contradictions(sum(match, ()), trusted, settings.sources)
            ]
        verify = self._parse_verify(path, settings)
        action = self._find_action(path, settings)
        if action is None:
            return []
        if not action.REVERSIBLE:
            self.faults += _check_irreversible(path, settings)
        tasks = list(self._build_tasks(path, settings, action))
        if len(self.faults) > fault_count:
            return []
        return [_bind_remedy(settings, action, task, (match, trusted), verify) for task in tasks]

    def _find_action(self, path: str, settings: RemedySettings) -> Action | None:
        if settings.action not in self._available:
            available = ", ".join(sorted(self._available))
            self.faults.append((f"{path}.action", f"no action is named {settings.action!r}; there are: {available}"))
            return None
        try:
            return complete_action(self._available[settings.action])
        except ValueError as error:
            self.faults.append((f"{path}.action", str(error)))
            return None

    def _parse_match(self, path: str, settings: RemedySettings) -> Iterator[Matchers]:
        if not settings.match:
            self.faults.append((f"{path}.match", 'expected a matcher such as alertname="DimmHot"'))
        parsed: list[Matcher] = []
        for index, text in enumerate(settings.match):
            try:
                parsed += parse_matchers(text)
            except ValueError as error:
                self.faults.append((f"{path}.match[{index}]", str(error)))
        if parsed and all(matcher.test("") for matcher in parsed):
            self.faults.append((f"{path}.match", "expected a matcher that not every alert meets"))
        yield tuple(parsed)

    def _parse_trusted(self, path: str, settings: RemedySettings, match: Iterable[Matchers]) -> Iterator[Matcher]:
        """Yields the patterns that a posted alert's labels must match in full: anybody may have written them."""
        if "webhook" not in settings.sources:
            if settings.labels or settings.instance is not None:
                self.faults.append((path, "expected sources: [webhook] beside labels and instance"))
            return
        default_instance = f"{re.escape(self._instance)}(:[0-9]+)?"
        patterns = {"instance": default_instance if settings.instance is None else settings.instance, **settings.labels}
        # A name that the operator wrote out needs no pattern; any other must at least look like a name.
        if not any(matcher.label == "alertname" and matcher.op == "=" for matchers in match for matcher in matchers):
            patterns.setdefault("alertname", _ALERT_NAME)
        for name, pattern in patterns.items():
            try:
                yield build_matcher(name, "=~", pattern)
            except ValueError as error:
                self.faults.append((f"{path}.labels.{name}", str(error)))

    def _parse_verify(self, path: str, settings: RemedySettings) -> Template | None:
        if settings.verify.expr is None:
            return None
        try:
            template = Template.parse(settings.name, settings.verify.expr)
            if "{{" not in settings.verify.expr:
                promql.compile(settings.verify.expr)
        except (TemplateError, promql.PromqlError) as error:
            self.faults.append((f"{path}.verify.expr", str(error)))
            return None
        return template

    def _build_tasks(self, path: str, settings: RemedySettings, action: Action) -> Iterator[Task]:
        unknown = sorted(set(settings.target) - set(action.TARGET))
        known_keys = ", ".join(action.TARGET) or "none"
        self.faults += [(f"{path}.target.{key}", f"unknown key; known here: {known_keys}") for key in unknown]
        try:
            parameters: Any = msgspec.convert(settings.parameters, _forbid_unknown_fields(action.Config), strict=True)
        except msgspec.ValidationError as error:
            self.faults.append((f"{path}.parameters", str(error).replace("Object", "the mapping")))
            return
        per_engine = settings.target.get("engine") == EACH_ENGINE
        if per_engine and action.NAMED:
            fault = f"expected an engine's name: {settings.action} is off for every engine that is not named"
            self.faults.append((f"{path}.target.engine", fault))
            return
        engines = self._engines if per_engine else {None: ""}
        for engine in engines:
            target = settings.target if engine is None else {**settings.target, "engine": engine}
            name = settings.name if engine is None else f"{settings.name}/{engine}"
            task = Task(name, target, parameters, {}, self._engines)
            faults = [] if unknown else list(action.faults(task))
            self.faults += [(path, fault) for fault in faults]
            if not faults:
                yield task


def _forbid_unknown_fields(config_type: type) -> type:
    """Returns a subclass that refuses unknown keys."""
    return msgspec.defstruct(
        config_type.__name__, [], bases=(config_type,), frozen=True, kw_only=True, forbid_unknown_fields=True
    )


def _bind_remedy(
    settings: RemedySettings,
    action: Action,
    task: Task,
    match_and_trusted: tuple[tuple[Matchers, ...], Matchers],
    verify: Template | None,
) -> Remedy:
    return Remedy(
        name=task.remedy,
        match=match_and_trusted[0],
        sources=settings.sources,
        trusted=match_and_trusted[1],
        resource=action.resource(task),
        reversible=action.REVERSIBLE,
        strength=action.strength(task),
        cooldown_ms=round(settings.cooldown * 1000),
        max_per_hour=settings.max_per_hour,
        max_attempts=settings.max_attempts,
        rollback=settings.rollback,
        enabled=settings.enabled,
        plausible=settings.plausible,
        settings=settings,
        action=action,
        task=task,
        verify=verify,
        undo_recipe=_encode_undo_recipe(settings, task),
    )


class UndoRecipe(msgspec.Struct, frozen=True):
    """The journalled data that undo an act after its remedy has left the configuration."""

    action: str
    target: dict[str, str]
    parameters: dict[str, Any]
    engines: dict[str, str]


def _encode_undo_recipe(settings: RemedySettings, task: Task) -> str:
    recipe = UndoRecipe(settings.action, dict(task.target), settings.parameters, dict(task.engines))
    return msgspec.json.encode(recipe).decode()


def from_undo_recipe(remedy: str, undo_recipe: str, labels: Mapping[str, str]) -> tuple[Action, Task]:
    """Returns the action and the task of a journalled act; any exception means that we cannot undo the act."""
    recipe = msgspec.json.decode(undo_recipe, type=UndoRecipe)
    action = complete_action(plugins.load_actions({recipe.action})[recipe.action])
    parameters: Any = msgspec.convert(recipe.parameters, action.Config)
    return action, Task(remedy, recipe.target, parameters, labels, recipe.engines)


def find_paced_engine(undo_recipe: str) -> str | None:
    """Returns the engine that a journalled act holds at a duty; None for any other act."""
    recipe = msgspec.json.decode(undo_recipe, type=UndoRecipe)
    return recipe.target.get("engine") if _holds_duty(recipe.action) else None


@functools.lru_cache(maxsize=64)
def _holds_duty(action: str) -> bool:
    """True if the value of an action is a duty; False also for an action that has been uninstalled."""
    try:
        module = plugins.load_actions({action}).get(action)
    except PluginError:
        return False
    return bool(getattr(module, "HOLDS_DUTY", False))


def collect_pacing_settings(catalog: Iterable[Remedy]) -> dict[str, ControlSettings]:
    """Returns the control settings of each engine that a remedy paces; the first remedy wins."""
    settings: dict[str, ControlSettings] = {}
    for remedy in catalog:
        control = remedy.action.control_settings(remedy.task) if remedy.enabled else None
        if control is not None:
            settings.setdefault(remedy.task.target.get("engine", ""), control)
    return settings


def _check_bounds(path: str, settings: RemedySettings) -> Iterator[tuple[str, str]]:
    if not _COOLDOWN_RANGE[0] <= settings.cooldown <= _COOLDOWN_RANGE[1]:
        yield (
            f"{path}.cooldown",
            f"expected {format_duration(_COOLDOWN_RANGE[0])} to {format_duration(_COOLDOWN_RANGE[1])}",
        )
    if not _WITHIN_RANGE[0] <= settings.verify.within <= _WITHIN_RANGE[1]:
        yield (
            f"{path}.verify.within",
            f"expected {format_duration(_WITHIN_RANGE[0])} to {format_duration(_WITHIN_RANGE[1])}",
        )
    if not settings.name or len(settings.name) > 64 or not settings.name.replace("-", "").replace("_", "").isalnum():
        yield f"{path}.name", f"expected up to 64 letters, digits, - and _, found {settings.name!r}"
    if not settings.sources:
        yield f"{path}.sources", "expected local, webhook or both"
    if settings.plausible is not None and not settings.plausible[0] < settings.plausible[1]:
        yield f"{path}.plausible", "expected the lower bound first"
    if settings.plausible is not None and settings.sources == ("webhook",):
        yield f"{path}.plausible", "expected sources: [local]: a posted alert has no value to check"


def _check_irreversible(path: str, settings: RemedySettings) -> Iterator[tuple[str, str]]:
    """Checks the tighter bounds of actions that cannot be undone."""
    cooldown, max_acts = _IRREVERSIBLE_LIMITS
    reason = f"since {settings.action} cannot be undone"
    if settings.cooldown < cooldown:
        yield f"{path}.cooldown", f"expected {format_duration(cooldown)} or more, {reason}"
    if settings.max_per_hour > max_acts:
        yield f"{path}.max_per_hour", f"expected {max_acts} or less, {reason}"
