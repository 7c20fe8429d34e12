"""Every action keeps the contract, and refuses if it would not help."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.actions import ChangedError, FailedError, Http, Moment, Plan, QueryRows, RefusedError, Task
from agent.remediation import plugins
from agent.remediation.action_defaults import complete_action
from agent.remediation.model import overlaps
from collectors import Host

ACTIONS: Mapping[str, Any] = {name: complete_action(module) for name, module in plugins.load_actions().items()}
ENGINES = {"r1": "http://127.0.0.1:1"}
# A valid target and valid parameters for each action; a new action adds its line.
RIGHT: Mapping[str, tuple[Mapping[str, str], Mapping[str, Any]]] = {
    "pace": ({"engine": "r1"}, {"duty": 0.5}),
    "drop_caches": ({}, {}),
    "governor": ({}, {"governor": "performance"}),
    "webhook": ({"url": "http://127.0.0.1:1/hook"}, {}),
    "reclaim": ({"node": "1"}, {}),
    "migrate_pages": ({"engine": "r1"}, {"from_node": 0, "to_node": 1}),
    "compact_memory": ({"engine": "r1", "node": "1"}, {}),
    "warm_up": ({"engine": "r1"}, {}),
    "freeze": ({"engine": "r1", "unit": "llama.service"}, {"duty": 0.6}),
    "haproxy": ({"socket": "/run/haproxy/admin.sock", "backend": "llm", "server": "a"}, {"weight": 20}),
    "command": ({"name": "fans-up"}, {}),
}


def make_task(name: str, target: Mapping[str, str] | None = None, **parameters: Any) -> Task:
    """Returns a valid task for an action, with the changes of a test."""
    right = RIGHT[name]
    parameters_with_defaults = ACTIONS[name].Config(**{**right[1], **parameters})
    return Task("test", right[0] if target is None else target, parameters_with_defaults, {"alertname": "A"}, ENGINES)


class FakeContext:
    """A context of a few values: query results, an engine's duty, files, and a hand that writes them."""

    def __init__(self, root: Path = Path("/nowhere"), values: Mapping[str, float] | None = None) -> None:
        self.host = Host(root)
        self.root = root
        self.values = dict(values or {})
        self.duty = 1.0
        self.status = 200
        self.leases: dict[str, tuple[str, str]] = {}
        self.requests: list[str] = []
        self.waits: list[float] = []
        self.weight, self.admin = 100, 0

    def query(self, expr: str) -> QueryRows:
        return [({}, value) for name, value in self.values.items() if name in expr]

    def line(self, address: str, text: str) -> str:
        """Answers as a HAProxy of one server."""
        self.requests.append(text)
        words = text.split()
        if words[:2] == ["show", "servers"]:
            return f"1\n# be_id srv_name srv_uweight srv_admin_state\n3 a {self.weight} {self.admin}\n\n"
        if words[3] == "weight":
            self.weight = int(words[4])
        else:
            self.admin = 8 if words[4] == "drain" else 0
        return "\n"

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    def http(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        patience: float = 5.0,
    ) -> Http:
        self.requests.append(f"{method} {url}")
        if method == "GET":
            return Http(200, f'# TYPE x gauge\nsteadytok_reference_duty{{model="m"}} {self.duty}\n')
        if self.status == 200 and method == "PUT":
            self.duty = json.loads(body or b"{}")["duty"]
        return Http(self.status, "because")

    def http_with_proof(self, method: str, url: str, body: bytes, patience: float = 5.0) -> Http:
        return self.http(method, url, body)

    def token(self, file: str | None) -> str:
        return "token"

    def hand(self, verb: str, **arguments: Any) -> dict[str, Any]:
        self.requests.append(verb)
        match verb:
            case "hello":
                unit = {"cgroup": "/system.slice/llama.service", "may": ["freeze"], "longest_stop": 0.5}
                leases = [{"lease": name} for name in self.leases]
                return {"leases": leases, "units": {"llama.service": unit}}
            case "renew":
                return {"renewed": [name for name in arguments["leases"] if name in self.leases]}
            case "release":
                number, prior = self.leases.pop(arguments["lease"])
                if number.isdecimal():
                    self._file(number).write_text(prior)
                return {"restored": True}
            case "governor":
                return self._govern(**arguments)
            case "freeze":
                self.leases[arguments["lease"]] = (arguments["unit"], "1")
                return {"prior": 1.0, "now": arguments["duty"]}
        return {"freed_bytes": 5 << 30, "seconds": 1.5}

    def _govern(self, policy: int, governor: str, lease: str, ttl: float, expected: str) -> dict[str, Any]:
        file = self._file(str(policy))
        if file.read_text().strip() != expected:
            raise ChangedError(f"policy {policy} has {file.read_text().strip()}")
        self.leases[lease] = (str(policy), expected)
        file.write_text(governor)
        return {"prior": expected, "now": governor}

    def _file(self, number: str) -> Path:
        return self.root / f"sys/devices/system/cpu/cpufreq/policy{number}/scaling_governor"


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_every_action_keeps_the_contract(name: str) -> None:
    """Parameters are a frozen struct, sentences are not empty, a valid task has no fault, and a lease is reversible."""
    action = ACTIONS[name]
    right = make_task(name)

    assert name in RIGHT, "a new action adds its line to RIGHT"
    assert issubclass(action.Config, msgspec.Struct)
    assert action.Config.__struct_config__.frozen
    assert list(action.faults(right)) == []
    assert action.describe(right)
    assert action.resource(right)
    assert isinstance(action.strength(right), float)
    assert action.REVERSIBLE or action.TTL is None
    assert all(callable(getattr(action, part)) for part in ("plan", "do", "undo", "steer"))
    assert (plugins.load_actions()[name].__doc__ or "").strip().startswith(f"{name}: ")


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_every_action_is_documented(name: str) -> None:
    """docs/actions.md has its row, with each key of its target and each parameter."""
    text = (Path(__file__).parents[3] / "docs/actions.md").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith(f"| `{name}`"))
    keys = {*ACTIONS[name].TARGET, *ACTIONS[name].Config.__struct_fields__}

    assert [key for key in sorted(keys) if f"`{key}" not in line] == []
    assert ("| no |" not in line) == ACTIONS[name].REVERSIBLE


@pytest.mark.parametrize("name", sorted(name for name in ACTIONS if ACTIONS[name].REVERSIBLE))
def test_what_is_reversible_comes_back(name: str, tmp_path: Path) -> None:
    """plan touches nothing, do writes the planned value, a second do renews, undo restores the machine."""
    reach = FakeContext(_write_policies(tmp_path, "powersave", "ondemand"))
    before = _read_machine(reach)
    action, right = ACTIONS[name], make_task(name)

    plan = action.plan(right, reach)
    assert _read_machine(reach) == before
    held_plan = plan._replace(ours=(plan.wanted,))
    assert action.do(right, held_plan, reach) == plan.wanted
    assert _read_machine(reach) != before
    assert action.do(right, held_plan, reach) == plan.wanted
    action.undo(right, held_plan, reach)
    assert _read_machine(reach) == before
    action.undo(right, held_plan, reach)
    assert _read_machine(reach) == before


def _read_machine(reach: FakeContext) -> Any:
    files = {str(path): path.read_text() for path in sorted(reach.root.rglob("scaling_governor"))}
    return reach.duty, reach.weight, reach.admin, files, dict(reach.leases)


def _write_policies(root: Path, *governors: str, driver: str = "acpi-cpufreq") -> Path:
    for number, governor in enumerate(governors):
        folder = root / f"sys/devices/system/cpu/cpufreq/policy{number}"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(governor)
        (folder / "scaling_driver").write_text(driver)
    return root


@pytest.mark.parametrize(
    ("name", "target", "parameters", "words"),
    [
        ("pace", {}, {}, "expected engine: NAME"),
        ("pace", {"engine": "r2"}, {}, "no engine is named 'r2'"),
        ("pace", {"engine": "r1"}, {"duty": 0.05}, "0.1 or more"),
        ("governor", {}, {"preference": "power"}, "expected governor: NAME, or preference: NAME"),
        ("governor", {"policy": "x"}, {}, "expected a number"),
        ("webhook", {"url": "ftp://x"}, {}, "expected http://HOST/PATH"),
        ("reclaim", {"node": "1", "unit": "a.service"}, {}, "not both"),
        ("reclaim", {"node": "one"}, {}, "target.node: expected a number, found 'one'"),
        ("reclaim", {}, {"most": "4 GB"}, "most: expected a size such as 64MiB or 4GiB, found '4 GB'"),
        ("reclaim", {}, {"most": "1KiB"}, "most: expected 1MiB or more"),
        ("migrate_pages", {}, {}, "it is off for every engine that is not named"),
        ("migrate_pages", {"engine": "r2"}, {}, "no engine is named 'r2'"),
        ("migrate_pages", {"engine": "r1"}, {"to_node": 0}, "expected two nodes, found from_node: 0 and to_node: 0"),
        ("migrate_pages", {"engine": "r1"}, {"per_second": "fast"}, "per_second: expected a size"),
        ("compact_memory", {"node": "1"}, {}, "it is off for every engine that is not named"),
        ("compact_memory", {"engine": "r1", "node": "-1"}, {}, "target.node: expected a number"),
        ("warm_up", {}, {}, "it is off for every engine that is not named"),
        ("warm_up", {"engine": "r1"}, {"prompt_tokens": 0}, "prompt_tokens: expected 1 to 1048576"),
        ("warm_up", {"engine": "r1"}, {"max_tokens": 0}, "max_tokens: expected 1 to 1024"),
        ("freeze", {"unit": "llama.service"}, {}, "it is off for every engine that is not named"),
        ("freeze", {"engine": "r1", "unit": "llama"}, {}, "target.unit: expected a unit such as llama.service"),
        ("freeze", {"engine": "r1", "unit": "llama.service"}, {"duty": 1.0}, "less than 1"),
        ("freeze", {"engine": "r1", "unit": "llama.service"}, {"period": 60.0}, "period: expected 0.05 to 10"),
        ("haproxy", {"socket": "admin.sock", "backend": "b", "server": "s"}, {}, "target.socket: expected /PATH"),
        ("haproxy", {"socket": "/s", "backend": "b c", "server": "s"}, {}, "target.backend: expected its name"),
        ("haproxy", {"socket": "/s", "backend": "b", "server": "s;"}, {}, "target.server: expected its name"),
        ("haproxy", {"socket": "/s", "backend": "b", "server": "s"}, {"weight": None}, "expected weight: NUMBER, or"),
        ("haproxy", {"socket": "/s", "backend": "b", "server": "s"}, {"drain": True}, "expected weight: NUMBER, or"),
        ("haproxy", {"socket": "/s", "backend": "b", "server": "s"}, {"weight": 300}, "weight: expected 0 to 256"),
        ("command", {"name": "../sh"}, {}, "target.name: expected a name of hand.toml's commands"),
    ],
)
def test_wrong_parameters_get_a_sentence(
    name: str, target: Mapping[str, str], parameters: Mapping[str, Any], words: str
) -> None:
    """The start reports the fault."""
    assert words in " ".join(ACTIONS[name].faults(make_task(name, target, **parameters)))


def test_pace_leaves_an_engine_that_somebody_paces() -> None:
    """A foreign lease cannot be restored, so it is not replaced; neither is one taken meanwhile."""
    pace, reach = ACTIONS["pace"], FakeContext()
    plan = pace.plan(make_task("pace"), reach)
    reach.duty = 0.8

    with pytest.raises(RefusedError, match="paced already"):
        pace.plan(make_task("pace"), reach)
    for step in (pace.do, pace.undo):
        with pytest.raises(ChangedError, match="by someone else"):
            step(make_task("pace"), plan, reach)
    assert reach.duty == 0.8


def test_a_pace_ends_with_an_engine_that_is_gone() -> None:
    """A lease without renewals for longer than its ttl has ended by itself, and so has the act."""

    class Gone(FakeContext):
        def http(self, *_: Any, **__: Any) -> Http:
            raise FailedError("http://127.0.0.1:1: Connection refused")

    plan = Plan(1.0, 0.5, "", (0.5,))
    with pytest.raises(FailedError, match="Connection refused"):
        ACTIONS["pace"].undo(make_task("pace"), plan._replace(untouched=29.0), Gone())
    ACTIONS["pace"].undo(make_task("pace"), plan._replace(untouched=31.0), Gone())


@pytest.mark.parametrize(("status", "words"), [(404, "has no PUT /pace"), (401, "refused the pace: HTTP 401: because")])
def test_pace_says_why_an_engine_refused(status: int, words: str) -> None:
    """The sentences for an engine without /pace and for a wrong token differ."""
    reach = FakeContext()
    reach.status = status

    with pytest.raises(FailedError, match=words):
        ACTIONS["pace"].do(make_task("pace"), Plan(1.0, 0.5, ""), reach)


@pytest.mark.parametrize(("held_duty", "first"), [(0.9, 0.88), (0.2, 0.2), (0.505, 0.5)])
def test_a_lost_pace_goes_to_the_safe_duty_in_steps(held_duty: float, first: float) -> None:
    """Without evidence the duty falls to a half and never rises, since what a lower duty held is still hot."""
    steer = ACTIONS["pace"].steer
    _, duty = steer(make_task("pace"), None, Moment(0, held_duty, True, lambda _: []))

    assert duty == first
    assert steer(make_task("pace"), None, Moment(0, held_duty, False, lambda _: []))[1] == 0.5


MEMORY = {
    "steadytok_meminfo_active_file_bytes": 20e9,
    "steadytok_meminfo_inactive_file_bytes": 30e9,
    "steadytok_meminfo_mapped_bytes": 5e9,
    "steadytok_meminfo_dirty_bytes": 1e9,
    "steadytok_meminfo_writeback_bytes": 0.0,
    "steadytok_meminfo_mem_total_bytes": 100e9,
    "steadytok_meminfo_cached_bytes": 0.0,
    "workingset_refault_file": 0.0,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steadytok_meminfo_mapped_bytes": 46e9}, "only 2.8 GiB \\(3.0 % of memory\\) is clean page cache"),
        ({"steadytok_meminfo_cached_bytes": 6e7}, "files are being loaded"),
        ({"workingset_refault_file": 1500.0}, "1,500 pages a second are read back already"),
        ({"workingset_refault_file": None}, "refaults is not known"),
    ],
)
def test_drop_caches_refuses_where_it_would_not_help(change: dict[str, float | None], words: str) -> None:
    """It refuses for mapped pages, a load, refaults, and unknown values."""
    values = {name: value for name, value in {**MEMORY, **change}.items() if value is not None}

    with pytest.raises(RefusedError, match=words):
        ACTIONS["drop_caches"].plan(make_task("drop_caches"), FakeContext(values=values))


def test_drop_caches_predicts_and_tells() -> None:
    """It predicts unmapped clean bytes, and reports the freed ones."""
    drop, reach = ACTIONS["drop_caches"], FakeContext(values=MEMORY)
    plan = drop.plan(make_task("drop_caches"), reach)

    assert plan.says == "41.0 GiB of unmapped clean page cache"
    assert drop.do(make_task("drop_caches"), plan, reach) == "freed 5.0 GiB in 1.5 s"


@pytest.mark.parametrize("driver", ["intel_pstate", "amd-pstate-epp"])
def test_governor_knows_that_powersave_is_ordinary(driver: str, tmp_path: Path) -> None:
    """With a driver that scales by itself nothing is switched."""
    reach = FakeContext(_write_policies(tmp_path, "powersave", driver=driver))

    with pytest.raises(RefusedError, match="is the ordinary governor of this driver"):
        ACTIONS["governor"].plan(make_task("governor"), reach)


def test_a_stricter_governor_reaches_every_policy(tmp_path: Path) -> None:
    """Policies that had the laxer value already are switched too; all get their prior value back."""
    reach = FakeContext(_write_policies(tmp_path, "performance", "ondemand"))
    plan = ACTIONS["governor"].plan(make_task("governor"), reach)
    ACTIONS["governor"].do(make_task("governor"), plan, reach)
    assert plan.says == "the governor of policy 1 to performance"

    strict = make_task("governor", governor="powersave")
    _, target_value = ACTIONS["governor"].steer(strict, None, Moment(0, plan.wanted, False, lambda _: []))
    assert target_value == {"0": "powersave", "1": "powersave"}


def test_one_policy_is_a_part_of_all() -> None:
    """The two are not held at once; a governor and an energy preference are separate resources."""
    all_policies, part, other = (
        ACTIONS["governor"].resource(make_task("governor", target, governor=governor, preference=preference))
        for target, governor, preference in (
            ({}, "performance", None),
            ({"policy": "3"}, "performance", None),
            ({}, None, "performance"),
        )
    )

    assert overlaps(all_policies, part)
    assert not overlaps(part, f"{all_policies}/30")
    assert not overlaps(all_policies, other)


def test_governor_refuses_while_a_processor_is_hot(tmp_path: Path) -> None:
    """A faster governor makes heat."""
    reach = FakeContext(_write_policies(tmp_path, "ondemand"), {"CpuThermalThrottling": 1.0})

    with pytest.raises(RefusedError, match="throttles itself by heat"):
        ACTIONS["governor"].plan(make_task("governor"), reach)


def test_governor_lets_go_what_half_succeeded(tmp_path: Path) -> None:
    """If the second policy was changed meanwhile, the first is restored."""
    reach = FakeContext(_write_policies(tmp_path, "ondemand", "ondemand"))
    plan = ACTIONS["governor"].plan(make_task("governor"), reach)
    (tmp_path / "sys/devices/system/cpu/cpufreq/policy1/scaling_governor").write_text("powersave")

    with pytest.raises(ChangedError):
        ACTIONS["governor"].do(make_task("governor"), plan, reach)
    assert reach.leases == {}
    assert (tmp_path / "sys/devices/system/cpu/cpufreq/policy0/scaling_governor").read_text() == "ondemand"


def test_webhook_takes_no_answer_but_2xx() -> None:
    """Any other answer is a failure, with its status and body."""
    hook, reach = ACTIONS["webhook"], FakeContext()
    plan = hook.plan(make_task("webhook"), reach)

    assert hook.do(make_task("webhook"), plan, reach) == "HTTP 200"
    reach.status = 503
    with pytest.raises(FailedError, match="HTTP 503: because"):
        hook.do(make_task("webhook"), plan, reach)
