"""Which remedies this agent has: those that ship and the operator's, checked whole and bound to their actions."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from agent import actions
from agent.actions import Action, Task
from agent.alerting.matchers import matchers, sound
from agent.config.loader import ConfigError
from agent.config.schema import Config, RemedySettings
from agent.pacing.settings import Terms
from agent.remediation.model import SOURCE, Remedy
from agent.sampling import plugins
from agent.text.units import duration, written
from rules import promql
from rules.history.selection import Matcher, Matchers
from rules.templates.template import Template, TemplateError

BUILTIN = Path(actions.__path__[0]) / "builtin.yml"
EACH = "each"
"""As `target.engine`: one remedy for each engine of the configuration."""

_COOLDOWN = (10.0, 7 * 86400.0)
_ONCE = (60.0, 12)
"""The least cooldown in seconds, and the most acts in an hour, of what cannot be put back."""
_WITHIN = (1.0, 3600.0)


@dataclass(frozen=True)
class Bound:
    """A remedy with its action: what the guards see of it, and what is done."""

    remedy: Remedy
    settings: RemedySettings
    action: Action
    task: Task
    verify: Template | None

    def task_for(self, labels: Mapping[str, str]) -> Task:
        """The task for one alert."""
        return Task(self.task.remedy, self.task.target, self.task.own, self.shown(labels), self.task.engines)

    def shown(self, labels: Mapping[str, str]) -> Mapping[str, str]:
        """The labels that the action and the verify expression see; of a posted alert those with a pattern alone."""
        if SOURCE not in labels:
            return labels
        return {name: labels[name] for name in ("alertname", *self.settings.labels) if name in labels}


def bound(config: Config, where: str) -> tuple[Bound, ...]:
    """Every remedy; raises ConfigError with all faults, each with its place."""
    remedies = [*_builtin(config), *((f"$.remedies[{index}]", each) for index, each in enumerate(config.remedies))]
    known = plugins.actions({each.action for _, each in remedies})
    book = _Book(config, known)
    found = [one for path, settings in remedies for one in book.bind(path, settings)]
    book.faults += _of_all(config, [settings for _, settings in remedies])
    if book.faults:
        raise ConfigError([f"{where}: {path}: {expected}" for path, expected in book.faults])
    return tuple(found)


def _builtin(config: Config) -> Iterator[tuple[str, RemedySettings]]:
    if not config.remediation.builtin:
        return
    own = {each.name for each in config.remedies} | set(config.remediation.disable)
    for told in yaml.safe_load(BUILTIN.read_text(encoding="utf-8")):
        if told["name"] not in own:
            verify = {**told.get("verify", {})}
            seconds = {"cooldown": duration(told["cooldown"])}
            within = {"within": duration(verify["within"])} if "within" in verify else {}
            settings = msgspec.convert({**told, **seconds, "verify": {**verify, **within}}, RemedySettings)
            yield f"{BUILTIN.name}: {settings.name}", settings


def _of_all(config: Config, remedies: list[RemedySettings]) -> Iterator[tuple[str, str]]:
    names = [each.name for each in remedies]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield "$.remedies", f"expected names to differ, found {name!r} twice"
    shipped = {told["name"] for told in yaml.safe_load(BUILTIN.read_text(encoding="utf-8"))}
    for name in sorted(set(config.remediation.disable) - shipped):
        yield (
            "$.remediation.disable",
            f"no remedy that ships is named {name!r}; there are: {', '.join(sorted(shipped))}",
        )
    hand = config.remediation.hand
    if hand not in ("socket", "direct") and not hand.startswith("/"):
        yield "$.remediation.hand", f"expected socket, direct or an absolute path, found {hand!r}"
    if not config.remediation.pause_file.startswith("/"):
        yield "$.remediation.pause_file", f"expected an absolute path, found {config.remediation.pause_file!r}"


class _Book:
    """Binds one remedy after another and keeps every fault."""

    def __init__(self, config: Config, known: Mapping[str, object]) -> None:
        self._engines = {engine.name: engine.url for engine in config.engines}
        self._instance = config.external()["instance"]
        self._known = known
        self.faults: list[tuple[str, str]] = []

    def bind(self, path: str, settings: RemedySettings) -> list[Bound]:
        """The remedy, or one for each engine; none where something is wrong with it."""
        before = len(self.faults)
        found = tuple(self._matchers(path, settings))
        self.faults += _bounds(path, settings)
        trusted = tuple(self._trusted(path, settings))
        verify = self._verify(path, settings)
        action = self._known.get(settings.action)
        if action is None:
            there = ", ".join(sorted(self._known))
            self.faults.append((f"{path}.action", f"no action is named {settings.action!r}; there are: {there}"))
            return []
        if not typing.cast(Action, action).REVERSIBLE:
            self.faults += _once(path, settings)
        tasks = list(self._tasks(path, settings, typing.cast(Action, action)))
        if len(self.faults) > before:
            return []
        return [_one(settings, typing.cast(Action, action), task, (found, trusted), verify) for task in tasks]

    def _matchers(self, path: str, settings: RemedySettings) -> Iterator[Matchers]:
        if not settings.match:
            self.faults.append((f"{path}.match", 'expected a matcher such as alertname="DimmHot"'))
        together: list[Matcher] = []
        for index, text in enumerate(settings.match):
            try:
                together += matchers(text)
            except ValueError as error:
                self.faults.append((f"{path}.match[{index}]", str(error)))
        if together and all(matcher.test("") for matcher in together):
            self.faults.append((f"{path}.match", "expected a matcher that not every alert meets"))
        yield tuple(together)

    def _trusted(self, path: str, settings: RemedySettings) -> Iterator[Matcher]:
        """What a posted alert's labels must be, whole: anybody may have written them."""
        if "webhook" not in settings.sources:
            if settings.labels or settings.instance is not None:
                self.faults.append((path, "expected sources: [webhook] beside labels and instance"))
            return
        own = f"{re.escape(self._instance)}(:[0-9]+)?"
        patterns = {"instance": own if settings.instance is None else settings.instance, **settings.labels}
        # Its name is seen without a pattern of the operator's, so it is held to what a name can be.
        patterns.setdefault("alertname", "[a-zA-Z_][a-zA-Z0-9_]{0,127}")
        for name, pattern in patterns.items():
            try:
                yield sound(name, "=~", pattern)
            except ValueError as error:
                self.faults.append((f"{path}.labels.{name}", str(error)))

    def _verify(self, path: str, settings: RemedySettings) -> Template | None:
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

    def _tasks(self, path: str, settings: RemedySettings, action: Action) -> Iterator[Task]:
        unknown = sorted(set(settings.target) - set(action.TARGET))
        there = ", ".join(action.TARGET) or "none"
        self.faults += [(f"{path}.target.{key}", f"unknown key; known here: {there}") for key in unknown]
        try:
            own: Any = msgspec.convert(settings.parameters, _strict(action.Config), strict=True)
        except msgspec.ValidationError as error:
            self.faults.append((f"{path}.parameters", str(error).replace("Object", "the mapping")))
            return
        each = settings.target.get("engine") == EACH
        if each and getattr(action, "NAMED", False):
            fault = f"expected an engine's name: {settings.action} is off for every engine that is not named"
            self.faults.append((f"{path}.target.engine", fault))
            return
        engines = self._engines if each else {None: ""}
        for engine in engines:
            target = settings.target if engine is None else {**settings.target, "engine": engine}
            name = settings.name if engine is None else f"{settings.name}/{engine}"
            task = Task(name, target, own, {}, self._engines)
            faults = [] if unknown else list(action.faults(task))
            self.faults += [(path, fault) for fault in faults]
            if not faults:
                yield task


def _strict(kind: type) -> type:
    """The same with unknown keys refused."""
    return msgspec.defstruct(kind.__name__, [], bases=(kind,), frozen=True, kw_only=True, forbid_unknown_fields=True)


def _one(
    settings: RemedySettings,
    action: Action,
    task: Task,
    found: tuple[tuple[Matchers, ...], Matchers],
    verify: Template | None,
) -> Bound:
    remedy = Remedy(
        name=task.remedy,
        match=found[0],
        sources=settings.sources,
        trusted=found[1],
        resource=action.resource(task),
        reversible=action.REVERSIBLE,
        strength=action.strength(task),
        cooldown_ms=round(settings.cooldown * 1000),
        max_per_hour=settings.max_per_hour,
        max_attempts=settings.max_attempts,
        rollback=settings.rollback,
        enabled=settings.enabled,
        plausible=settings.plausible,
        means=_means(settings, task),
    )
    return Bound(remedy, settings, action, task, verify)


class Means(msgspec.Struct, frozen=True):
    """What it takes to put an act back when its remedy has left the configuration; it lies in the journal."""

    action: str
    target: dict[str, str]
    parameters: dict[str, Any]
    engines: dict[str, str]


def _means(settings: RemedySettings, task: Task) -> str:
    means = Means(settings.action, dict(task.target), settings.parameters, dict(task.engines))
    return msgspec.json.encode(means).decode()


def by_means(remedy: str, means: str, labels: Mapping[str, str]) -> tuple[Action, Task]:
    """The action and the task of a journalled act; whatever it raises, the act cannot be put back by us."""
    told = msgspec.json.decode(means, type=Means)
    action = typing.cast(Action, plugins.actions({told.action})[told.action])
    own: Any = msgspec.convert(told.parameters, action.Config)
    return action, Task(remedy, told.target, own, labels, told.engines)


def paced_engine(means: str) -> str | None:
    """The engine that a journalled act holds at a duty, None where it does something else."""
    told = msgspec.json.decode(means, type=Means)
    return told.target.get("engine") if told.action in ("pace", "freeze") else None


def pacing_terms(book: Iterable[Bound]) -> dict[str, Terms]:
    """Of each engine that a remedy paces by a controller, the first one's terms."""
    found: dict[str, Terms] = {}
    for bound in book:
        if bound.settings.action == "pace" and bound.remedy.enabled and bound.task.own.control is not None:
            found.setdefault(bound.task.target.get("engine", ""), bound.task.own.control)
    return found


def _bounds(path: str, settings: RemedySettings) -> Iterator[tuple[str, str]]:
    if not _COOLDOWN[0] <= settings.cooldown <= _COOLDOWN[1]:
        yield f"{path}.cooldown", f"expected {written(_COOLDOWN[0])} to {written(_COOLDOWN[1])}"
    if not _WITHIN[0] <= settings.verify.within <= _WITHIN[1]:
        yield f"{path}.verify.within", f"expected {written(_WITHIN[0])} to {written(_WITHIN[1])}"
    if not settings.name or len(settings.name) > 64 or not settings.name.replace("-", "").replace("_", "").isalnum():
        yield f"{path}.name", f"expected up to 64 letters, digits, - and _, found {settings.name!r}"
    if not settings.sources:
        yield f"{path}.sources", "expected local, webhook or both"
    if settings.plausible is not None and not settings.plausible[0] < settings.plausible[1]:
        yield f"{path}.plausible", "expected the lower bound first"


def _once(path: str, settings: RemedySettings) -> Iterator[tuple[str, str]]:
    """What cannot be put back is bounded tighter."""
    cooldown, most = _ONCE
    why = f"since what {settings.action} does cannot be put back"
    if settings.cooldown < cooldown:
        yield f"{path}.cooldown", f"expected {written(cooldown)} or more, {why}"
    if settings.max_per_hour > most:
        yield f"{path}.max_per_hour", f"expected {most} or less, {why}"
