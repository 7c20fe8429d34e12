"""warm_up, freeze, haproxy and command: their effects, their sentences, and their refusals."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.actions import ChangedError, FailedError, Http, Moment, QueryRows, RefusedError, Task
from agent.remediation.action_context import LiveActionContext
from rules.history.history import History
from tests import processes
from tests.agent.actions.test_actions import ACTIONS, FakeContext, make_task
from tests.secret_files import write_secret

WARM, FREEZE, HAPROXY, COMMAND = (ACTIONS[name] for name in ("warm_up", "freeze", "haproxy", "command"))
COLD = {"steadytok_engine_generated_tokens_total": 0.0, "steadytok_engine_requests_running": 0.0}


class Engine(FakeContext):
    """An engine that lists its models and records its requests."""

    def __init__(self, values: Mapping[str, float], models: Any = None) -> None:
        super().__init__(values=values)
        self.models = models or {"data": [{"id": "m", "max_model_len": 1000}]}
        self.bodies: list[dict[str, Any]] = []
        self.per_word = 1

    def http(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        patience: float = 5.0,
    ) -> Http:
        if method == "POST":
            self.bodies.append(json.loads(body or b""))
            usage = {"prompt_tokens": 1 + self.per_word * self.bodies[-1]["prompt"].count("a")}
            return Http(self.status, json.dumps({"usage": usage}))
        return Http(self.status, json.dumps(self.models))


@pytest.mark.parametrize("per_word", [1, 2, 3])
def test_warm_up_sends_the_longest_prompt_that_is_served(per_word: int) -> None:
    """The prompt is the model's longest less the answer, whatever the tokens of a word; never longer."""
    reach = Engine(COLD)
    reach.per_word = per_word
    plan = WARM.plan(make_task("warm_up"), reach)
    result = WARM.do(make_task("warm_up"), plan, reach)
    short, long = reach.bodies

    assert plan.says == "a prompt of about 992 tokens to m"
    assert (long["model"], long["max_tokens"], short["max_tokens"]) == ("m", 8, 1)
    assert 960 <= 1 + per_word * long["prompt"].count("a") <= 992
    assert result == f"answered a prompt of {1 + per_word * long['prompt'].count('a'):,} tokens"
    assert WARM.plan(make_task("warm_up", prompt_tokens=5000), reach).wanted["tokens"] == 992
    assert WARM.plan(make_task("warm_up", prompt_tokens=50), reach).wanted["tokens"] == 50


@pytest.mark.parametrize(
    ("change", "models", "parameters", "words"),
    [
        ({"steadytok_engine_generated_tokens_total": 7.0}, None, {}, "is not cold: it has generated 7 tokens"),
        ({"steadytok_engine_generated_tokens_total": None}, None, {}, "not known whether engine r1 is cold"),
        ({"steadytok_engine_requests_running": 1.0}, None, {}, "is not idle"),
        ({}, {"data": [{"id": "m"}]}, {}, "does not report its longest context; give parameters"),
        ({}, {"data": [{"id": "m"}]}, {"model": "n"}, "has no model 'n'; there are: m"),
        ({}, {"error": "no"}, {}, "does not report its models: HTTP 200"),
    ],
)
def test_warm_up_refuses(change: dict[str, Any], models: Any, parameters: dict[str, Any], words: str) -> None:
    """A warm or busy engine needs no warm-up, and unknown values are not guessed."""
    values = {name: value for name, value in {**COLD, **change}.items() if value is not None}

    with pytest.raises(RefusedError, match=words):
        WARM.plan(make_task("warm_up", **parameters), Engine(values, models))


def test_warm_up_tells_what_an_engine_refused() -> None:
    """An engine that runs out of memory now fails before its first user comes."""
    reach = Engine(COLD, models={"data": [{"id": "m", "max_model_len": 10}]})
    plan = WARM.plan(make_task("warm_up", max_tokens=1), reach)
    reach.status = 500

    with pytest.raises(FailedError, match="HTTP 500"):
        WARM.do(make_task("warm_up"), plan, reach)


def test_freeze_minds_what_root_says_of_liveness_probes() -> None:
    """longest_stop of hand.toml bounds each stop; a shorter period is the same duty in shorter stops."""
    long = make_task("freeze", duty=0.4, period=1.0)

    with pytest.raises(RefusedError, match=r"still for 0\.60 s at a time, and longest_stop in hand.toml is 0\.5 s"):
        FREEZE.plan(long, FakeContext())
    assert "still for 0.30 s" in FREEZE.plan(make_task("freeze", duty=0.4, period=0.5), FakeContext()).says


def test_freeze_leaves_what_is_held_back_already(tmp_path: Path) -> None:
    """A unit that root does not list, a unit that someone froze, and an engine that is paced."""
    with pytest.raises(RefusedError, match=r"hand\.toml does not allow freeze for"):
        FREEZE.plan(make_task("freeze", {"engine": "r1", "unit": "other.service"}), FakeContext())
    with pytest.raises(RefusedError, match=r"engine r1 is paced already, to a duty of 0\.5"):
        FREEZE.plan(make_task("freeze"), FakeContext(values={"steadytok_pace_duty": 0.5}))
    file = tmp_path / "sys/fs/cgroup/system.slice/llama.service/cgroup.freeze"
    file.parent.mkdir(parents=True)
    file.write_text("1\n")
    with pytest.raises(RefusedError, match="frozen already, by another program"):
        FREEZE.plan(make_task("freeze"), FakeContext(tmp_path))


@pytest.mark.parametrize(("held_duty", "first"), [(0.9, 0.88), (0.2, 0.2), (0.505, 0.5)])
def test_a_lost_freeze_goes_to_the_safe_duty_in_steps(held_duty: float, first: float) -> None:
    """As with pace, the duty without evidence falls in steps and never rises."""
    assert FREEZE.steer(make_task("freeze"), None, Moment(0, held_duty, True, lambda _: []))[1] == first
    assert FREEZE.steer(make_task("freeze"), None, Moment(0, held_duty, False, lambda _: []))[1] == 0.6


DRAIN = make_task("haproxy", weight=None, drain=True)


def test_haproxy_goes_from_weight_to_drain_and_back() -> None:
    """Draining replaces a weight, since it is stricter than any; the first prior value is restored."""
    reach = FakeContext()
    plan = HAPROXY.plan(make_task("haproxy"), reach)
    HAPROXY.do(make_task("haproxy"), plan, reach)
    assert (reach.weight, reach.admin) == (20, 0)

    _, target_value = HAPROXY.steer(DRAIN, None, Moment(0, plan.wanted, False, lambda _: []))
    HAPROXY.do(DRAIN, plan._replace(wanted=target_value, ours=(plan.wanted, target_value)), reach)
    assert (reach.weight, reach.admin) == (20, 8)
    assert HAPROXY.strength(DRAIN) < HAPROXY.strength(make_task("haproxy", weight=0))
    HAPROXY.undo(DRAIN, plan._replace(ours=(target_value,)), reach)
    assert (reach.weight, reach.admin) == (100, 0)


def test_haproxy_keeps_its_hands_off() -> None:
    """A server that is out or at a lower weight is left alone, and so is a value set by someone else."""
    reach = FakeContext()
    plan = HAPROXY.plan(make_task("haproxy"), reach)
    reach.weight = 7
    for step in (HAPROXY.do, HAPROXY.undo):
        with pytest.raises(ChangedError, match="llm/a was set to weight 7 by someone else"):
            step(make_task("haproxy"), plan, reach)
    with pytest.raises(RefusedError, match="has a weight of 7 already"):
        HAPROXY.plan(make_task("haproxy"), reach)
    for admin, words in ((1, "is in maintenance"), (8, "is being drained already, by another program")):
        reach.admin = admin
        with pytest.raises(RefusedError, match=words):
            HAPROXY.plan(DRAIN, reach)
    gone = make_task("haproxy", {"socket": "/s", "backend": "llm", "server": "b"})
    HAPROXY.undo(gone, plan, reach)
    with pytest.raises(RefusedError, match="backend llm has no server b; there are: a"):
        HAPROXY.plan(gone, reach)


class Starter(FakeContext):
    """A hand that knows one command, with the exit status of a test."""

    def __init__(self, status: int = 0) -> None:
        super().__init__()
        self.exit_status = status

    def hand(self, verb: str, **arguments: Any) -> dict[str, Any]:
        if verb == "hello":
            return {"commands": {"fans-up": ["STEADYTOK_LABEL_DIMM", "STEADYTOK_REMEDY"]}}
        return {"status": self.exit_status, "output": "all\nwell\n", "seconds": 0.5}


def test_command_gets_the_labels_that_root_lists_and_nothing_else() -> None:
    """Names and values are filtered: no character that a shell would interpret passes."""
    config, labels = COMMAND.Config(), {"alertname": "Hot", "dimm": "A1;$(reboot)`x`\n", "päth": "x"}
    plan = COMMAND.plan(Task("loud", {"name": "fans-up"}, config, labels, {}), Starter())

    assert plan.wanted["environment"] == {
        "STEADYTOK_LABEL_DIMM": "A1___reboot__x__",
        "STEADYTOK_REMEDY": "loud",
    }
    assert COMMAND.do(make_task("command"), plan, Starter()) == "fans-up ended in 0.5 s: all well"


def test_command_tells_a_failure() -> None:
    """A status other than 0 has its output; an unknown name is refused; observing needs no hand."""
    plan = COMMAND.plan(make_task("command"), Starter())
    with pytest.raises(FailedError, match="fans-up ended with status 3: all well"):
        COMMAND.do(make_task("command"), plan, Starter(3))
    with pytest.raises(RefusedError, match=r"hand.toml has no \[commands.reboot\]; there are: fans-up"):
        COMMAND.plan(make_task("command", {"name": "reboot"}), Starter())

    class Nobody(FakeContext):
        def hand(self, verb: str, **arguments: Any) -> dict[str, Any]:
            raise FailedError("there is no hand")

    assert COMMAND.plan(make_task("command"), Nobody()).says == "fans-up with no variable of the alert"


def test_the_reference_engine_is_really_warmed_up(tmp_path: Path) -> None:
    """The engine has processed a prompt of nearly its whole context, whatever its vocabulary."""
    write_secret(tmp_path / "token", "token")
    port = processes.find_free_port()
    arguments = ["-m", "engine", "--port", str(port), "--size", "1MiB", "--token-file", str(tmp_path / "token")]
    with processes.run_process([sys.executable, *arguments], tmp_path / "log"):
        url = f"http://127.0.0.1:{port}"
        processes.wait_until(lambda: processes.fetch(f"{url}/healthz") is not None, 30, "the engine answers")

        class Cold(LiveActionContext):
            def query(self, expr: str) -> QueryRows:
                return [({}, 0.0)]

        reach = Cold(History(60_000).snapshot(), 0, "/", "/nobody", tmp_path / "token")
        warm = Task("warm", {"engine": "r1"}, WARM.Config(), {}, {"r1": url})
        result = WARM.do(warm, WARM.plan(warm, reach), reach)
        metrics = processes.fetch(f"{url}/metrics") or ""

    assert result == "answered a prompt of 1,009 tokens"  # of 1,024, with 8 for the answer and two for each word
    total = next(line for line in metrics.splitlines() if line.startswith("steadytok_reference_prompt_tokens_total "))
    assert float(total.split()[1]) > 1009
