"""Plug-ins of third parties, written against the contract of 0.1.0 word for word, still load and work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.actions import ActionContext, FailedError, Moment, Plan
from agent.config.loader import ConfigError, parse
from agent.remediation import executor
from agent.remediation.catalog import bind_remedies, from_undo_recipe
from agent.remediation.model import Act, EventKind, Phase, Remedy
from agent.sampling import plugins
from collectors import Host

# The contract of 0.1.0: every name defined, the context passed by position and annotated as `Reach`.
ACTION = '''
"""fan: sets the floor of a fan, in a file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from agent.actions import (
    PATIENCE, Action, ActionError, ChangedError, FailedError, Http, Moment, Plan, Reach, RefusedError, Steered, Task,
    UnknownError, Vector,
)

TARGET = ("fan",)
REVERSIBLE = True
TTL = 30.0
VERBS: tuple[str, ...] = ()
NAMED = False
LASTING = True


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """How fast."""

    floor: int = 50
    """Percent."""


@dataclass(frozen=True)
class Ramp(Steered):
    """Where it is."""

    step: int


def describe(task: Task) -> str:
    return f"sets {task.target['fan']} to {task.own.floor} %"


def resource(task: Task) -> str:
    return f"fan {task.target['fan']}"


def strength(task: Task) -> float:
    return float(task.own.floor)


def faults(task: Task) -> Iterable[str]:
    if not 0 <= task.own.floor <= 100:
        yield "floor: expected 0 to 100"


def plan(task: Task, reach: Reach) -> Plan:
    current = reach.host.read_int(f"sys/{task.target['fan']}")
    if current is None:
        raise RefusedError("there is no such fan")
    return Plan(current, task.own.floor, says=f"{current} -> {task.own.floor}")


def do(task: Task, plan: Plan, reach: Reach) -> Any:
    reach.hand("fan", value=plan.wanted)
    if reach.http("GET", "http://127.0.0.1:1/", patience=PATIENCE).status != 200:
        raise FailedError("no answer")
    return plan.wanted


def undo(task: Task, plan: Plan, reach: Reach) -> None:
    if plan.untouched > TTL and plan.prior not in (*plan.ours, plan.prior):
        raise ChangedError("somebody has")
    reach.hand("fan", value=plan.prior)


def steer(task: Task, memory: Any, moment: Moment) -> tuple[Any, Any]:
    step = 1 if memory is None else memory.step + 1
    return Ramp(reason="ramps", says=f"step {step}", step=step), moment.held + (0 if moment.lost else 1)
'''
SHORT = '''
"""bell: rings."""

from agent.actions import Plan


def describe(task):
    return "rings"


def resource(task):
    return "bell"


def plan(task, context):
    return Plan(None, "rung", "the bell")


def do(task, plan, context):
    return "rung"
'''
COLLECTOR = '''
"""Connections that the kernel tracks. Reads /proc/sys/net/netfilter/nf_conntrack_{count,max}."""

from __future__ import annotations

from collections.abc import Iterator

from collectors import Host, Reading, gauge

ENTRIES = gauge("steadytok_conntrack_entries", "Connections that are tracked now.")
LIMIT = gauge("steadytok_conntrack_limit", "Connections that can be tracked.")
METRICS = (ENTRIES, LIMIT)
INTERVAL = 5.0

_FOLDER = "proc/sys/net/netfilter"


def collect(host: Host) -> Iterator[Reading]:
    """Nothing where the module is not loaded."""
    if host.exists(_FOLDER):
        yield ENTRIES.sample(host.read_int(f"{_FOLDER}/nf_conntrack_count"))
        yield LIMIT.sample(host.read_int(f"{_FOLDER}/nf_conntrack_max"))
'''
ENTRY_POINTS = """[steadytok.actions]
fan = third_party_fan
bell = third_party_bell
broken = third_party_broken

[steadytok.collectors]
conntrack = third_party_conntrack
"""


class Machine:
    """The context of one fan, whose file the hand writes."""

    def __init__(self, root: Path) -> None:
        self.host, self.file = Host(root), root / "sys/fan1"
        self.file.parent.mkdir(parents=True)
        self.file.write_text("20")

    def hand(self, verb: str, **arguments: Any) -> dict[str, Any]:
        self.file.write_text(str(arguments["value"]))
        return {}

    def http(self, method: str, url: str, body: Any = None, headers: Any = None, patience: float = 5.0) -> Any:
        return type("Answer", (), {"status": 200})


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Installs the package of a third party for one test."""
    folder = tmp_path / "site"
    (folder / "third_party-1.dist-info").mkdir(parents=True)
    (folder / "third_party-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1\n")
    (folder / "third_party-1.dist-info/entry_points.txt").write_text(ENTRY_POINTS)
    sources = {"fan": ACTION, "bell": SHORT, "conntrack": COLLECTOR, "broken": SHORT + "\nREVERSIBLE = True\n"}
    for name, source in sources.items():
        (folder / f"third_party_{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    yield
    for name in sources:
        sys.modules.pop(f"third_party_{name}", None)


def bind(action: str, **settings: Any) -> Remedy:
    entry = {"name": "mine", "match": ['alertname="Hot"'], "action": action, **settings}
    document = {"remedies": [entry], "remediation": {"builtin": False}}
    (remedy,) = bind_remedies(parse(document, "f", {}), "f")
    return remedy


def make_act(remedy: Remedy, *ours: str) -> Act:
    return Act(
        1, remedy.name, remedy.resource, (), False, True, Phase.WRITING, 0, (), prior="20", ours=ours,
        undo_recipe=remedy.undo_recipe,
    )  # fmt: skip


def test_an_action_of_the_first_contract_is_bound(tmp_path: Path) -> None:
    """Constants, faults and sentences come from the module; a fault of its parameters stops the start."""
    remedy = bind("fan", target={"fan": "fan1"}, parameters={"floor": 60})

    assert (remedy.resource, remedy.strength, remedy.reversible) == ("fan fan1", 60.0, True)
    assert remedy.action.describe(remedy.task) == "sets fan1 to 60 %"
    assert (remedy.action.TTL, remedy.action.LASTING, remedy.action.NAMED) == (30.0, True, False)
    with pytest.raises(ConfigError, match="floor: expected 0 to 100"):
        bind("fan", target={"fan": "fan1"}, parameters={"floor": 101})


def test_an_action_of_the_first_contract_plans_writes_and_undoes(tmp_path: Path) -> None:
    """It runs through the executor's jobs, and from the journal after its remedy has gone."""
    remedy, machine = bind("fan", target={"fan": "fan1"}), Machine(tmp_path / "root")
    context: ActionContext = machine  # type: ignore[assignment]  # it has only what the action uses
    act = make_act(remedy, "50")

    planned = executor.make_plan_job(act, remedy.action, remedy.build_task({}), context, lambda: "")()
    assert (planned.kind, planned.prior, planned.value, planned.detail) == (EventKind.INTENDED, "20", "50", "20 -> 50")
    done = executor.make_do_job(act, remedy.action, remedy.build_task({}), context, 50, EventKind.DID)()
    assert (done.kind, machine.file.read_text()) == (EventKind.DID, "50")
    memory, value = remedy.action.steer(remedy.task, None, Moment(0, 50, False, lambda _: []))
    memory, value = remedy.action.steer(remedy.task, memory, Moment(0, value, True, lambda _: []))
    assert (memory.reason, memory.says, value) == ("ramps", "step 2", 51)

    action, task = from_undo_recipe(act.remedy, act.undo_recipe, {})
    assert executor.make_undo_job(act, action, task, context, 40.0)().kind is EventKind.RESTORED
    assert machine.file.read_text() == "20"


def test_an_action_may_leave_out_all_that_has_a_default() -> None:
    """Four functions are an action: it holds nothing, needs nothing, and runs once."""
    remedy = bind("bell")
    action, task = remedy.action, remedy.task

    assert (action.TTL, action.VERBS, action.TARGET, action.REVERSIBLE, action.LASTING) == (None, (), (), False, False)
    assert (remedy.strength, list(action.faults(task))) == (0.0, [])
    assert action.steer(task, None, Moment(0, "rung", False, lambda _: [])) == (None, "rung")
    assert executor.make_do_job(make_act(remedy), action, task, Machine, "rung", EventKind.DID)().detail == "rung"  # type: ignore[arg-type]  # unused
    with pytest.raises(ConfigError, match="unknown key; known here: none"):
        bind("bell", target={"fan": "fan1"})


def test_a_reversible_action_must_say_how_it_is_undone() -> None:
    """Otherwise the agent would count an act as undone."""
    with pytest.raises(ConfigError, match="action: the action lacks undo"):
        bind("broken")


def test_a_collector_of_the_first_contract_reads(tmp_path: Path) -> None:
    """It is the example of docs/extending.md, loaded from its entry point."""
    folder = tmp_path / "proc/sys/net/netfilter"
    folder.mkdir(parents=True)
    (folder / "nf_conntrack_count").write_text("7\n")
    (folder / "nf_conntrack_max").write_text("262144\n")
    module = plugins.load_collectors({"conntrack"})["conntrack"]
    collector = plugins.bind_collector(module, "conntrack", interval=None, deadline=None, config=None)

    readings: list[Any] = list(collector.collect(Host(tmp_path)))
    assert [reading.value for reading in readings] == [7.0, 262144.0]
    assert (collector.interval, collector.description) == (5.0, module.__doc__.strip().splitlines()[0])
    assert "conntrack" not in plugins.load_collectors()


def test_errors_of_the_contract_are_those_that_the_agent_catches() -> None:
    """The old name of the context remains, and a refusal differs from a failure."""
    import agent.actions

    assert agent.actions.Reach is ActionContext
    assert issubclass(agent.actions.RefusedError, agent.actions.ActionError)
    assert not issubclass(FailedError, agent.actions.RefusedError)
    assert Plan(None, 1, "says").ours == ()
