"""The commands of the pages, typed: against an agent on a machine that has everything, an engine, an Alertmanager."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
import yaml

from tests import processes
from tests.deep import dashboard_world
from tests.docs.commands import EVERY, Command
from tests.docs.pages import HOUSE

pytestmark = [pytest.mark.deep, pytest.mark.timeout(120)]

TYPED = sorted({command.text: command for command in EVERY if command.reason is None}.values(), key=str)
RULES = """
groups:
- name: mine
  rules:
  - {alert: Busy, expr: 'max by (job, instance) (steadytok_stat_processes_running) > 1000', labels: {severity: info}}
"""
RULES_TEST = """
rule_files: [my-rules.yml]
tests:
- input_series: [{series: 'steadytok_stat_processes_running{instance="a"}', values: '2000x10'}]
  alert_rule_test: [{eval_time: 5m, alertname: Busy, exp_alerts: [{exp_labels: {instance: a, severity: info}}]}]
"""


class Desk:
    """Where the commands are typed: a folder with what the pages speak of, and what runs behind it."""

    def __init__(self, folder: Path, agent: str, engine: str) -> None:
        self.folder, self.agent, self.engine = folder, agent, engine

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        """A line of a page, with the addresses and names of this desk in place of the reader's."""
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", self.fill_in(text)],
            cwd=self.folder,
            env={**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    def fill_in(self, text: str) -> str:
        """What a reader would type here."""
        text = text.replace("http://127.0.0.1:8000", self.engine)
        text = re.sub(r"(http://)?127\.0\.0\.1:9817", self.agent, text)
        for word, value in (("[WHO]", "ENGINE"), ("[NAME]", "cool"), (" NAME", " cool"), ("FILE", "my-rules.yml")):
            text = text.replace(word, value)
        text = text.replace("rules test my-rules.yml", "rules test my-rules-test.yml")
        text = re.sub(r"steadytok collect cool", "steadytok collect meminfo", text)
        text = re.sub(r"\bENGINE\b", "r0", text)  # as the configuration calls it
        text = re.sub(r"^steadytok top$", f"steadytok top --once --url {self.agent}", text)
        if text.startswith(("steadytok check", "steadytok collect")):
            text = re.sub(r"(steadytok (?:check|collect[^|;]*))", rf"\1 --root {self.folder / 'root'}", text)
        if "engine bench" in text:
            text += " --requests 2 --tokens 8 --name r0"
        return text


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Everything that the pages take for granted."""
    folder = tmp_path_factory.mktemp("desk")
    dashboard_world.build(folder / "root")
    (folder / "my-rules.yml").write_text(RULES)
    (folder / "my-rules-test.yml").write_text(RULES_TEST)
    (folder / "docs").symlink_to(HOUSE / "docs")
    with ExitStack() as stack:
        am = f"127.0.0.1:{processes.find_free_port()}"
        arguments = [
            processes.require_program("prometheus-alertmanager"),
            f"--config.file={HOUSE}/docs/examples/alertmanager.yml",
            f"--storage.path={folder / 'am'}",
            f"--web.listen-address={am}",
            "--cluster.listen-address=",
        ]
        stack.enter_context(processes.run_process(arguments, folder / "am.log"))
        processes.wait_until(lambda: processes.fetch(f"http://{am}/-/ready") is not None, 30, "Alertmanager is ready")
        engine = stack.enter_context(dashboard_world.run_reference_engine(folder))
        agent = stack.enter_context(_agent(folder, am, engine))
        _shim(folder)
        yield Desk(folder, agent, engine)


def _agent(folder: Path, am: str, engine: str) -> AbstractContextManager[str]:
    drill = {"match": ['alertname="Busy"'], "action": "webhook", "target": {"url": "http://127.0.0.1:9/"}}
    config = {
        "engine": {"enabled": False},
        "engines": [{"name": "r1", "kind": "vllm", "url": "http://127.0.0.1:8000"}, {"name": "r0", "url": engine}],
        "rules": {"files": [str(folder / "my-rules.yml")]},
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [am]}]}]},
        "remediation": {"pause_file": str(folder / "pause")},
        "remedies": [{"name": "cool", **drill}],
    }
    return dashboard_world.run_agent(folder, "127.0.0.2", "picture", config)


def _shim(folder: Path) -> None:
    """`steadytok` as the reader has it in PATH, told which configuration is the host's."""
    config = yaml.safe_load((folder / "picture.yml").read_text())
    (folder / "steadytok.yml").write_text(yaml.safe_dump(config))
    # What is of a folder instead of a host has a state of its own: the diary and the recorder are read from there.
    (diary,) = (folder / "state-picture").rglob("journal.db")
    (folder / "diary.yml").write_text(yaml.safe_dump({**config, "state": {"dir": str(diary.parent)}}))
    shim = folder / "bin" / "steadytok"
    shim.parent.mkdir()
    commands = "check|collect|placement|alert|remedies|recorder|engine"
    # The option stands last, but before the pattern of engines' own options; a later one of the reader's wins.
    shim.write_text(
        f'#!/bin/bash\ncase "$1 $2" in\n'
        f'  ("remedies audit" | recorder*) exec {sys.executable} -m agent "$@" --config {folder}/diary.yml;;\n'
        f"  ({' | '.join(f'{each}*' for each in commands.split('|'))})"
        f' exec {sys.executable} -m agent "$@" --config {folder}/steadytok.yml;;\n'
        f'  (*) exec {sys.executable} -m agent "$@";;\nesac\n'
    )
    shim.chmod(0o755)


@pytest.mark.parametrize("command", TYPED, ids=lambda command: command.text[:80])
def test_it_works_as_the_page_says(command: Command, desk: Desk) -> None:
    """It ends with status 0, and a pipe to grep finds what the page looks for."""
    if command.text == "steadytok run":
        return _runs(desk)
    if command.text.startswith("steadytok recorder"):
        processes.wait_until(lambda: any(desk.folder.glob("**/recorder/*")), 30, "something has been recorded")
    done = desk.run(command.text)
    transcript = f"{desk.fill_in(command.text)}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"

    ended_early = command.text.endswith("head") and done.returncode in (23, 141)  # curl's word, and the shell's
    assert done.returncode == 0 or ended_early, transcript
    assert "Traceback" not in done.stderr
    return None


def _runs(desk: Desk) -> None:
    """`steadytok run` shows this host until Ctrl-C, and ends well."""
    config = desk.folder / "run.yml"
    config.write_text(
        f"web: {{listen: '127.0.0.5:{processes.find_free_port()}'}}\nstate: {{dir: {desk.folder / 'run'}}}\n"
    )
    arguments = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(config)]
    with processes.run_process(arguments, desk.folder / "run.log") as process:
        processes.wait_until(lambda: "listening" in (desk.folder / "run.log").read_text(), 30, "it listens")
        time.sleep(2)
        process.send_signal(signal.SIGINT)

        assert process.wait(20) == 0
    assert "Traceback" not in (desk.folder / "run.log").read_text()


def test_a_fleets_rules_pass_promtool(tmp_path: Path) -> None:
    """Each alert about agents comes when it should, with its words, and not else; and each name is recorded."""
    done = subprocess.run(
        [processes.require_program("promtool"), "test", "rules", str(HOUSE / "tests" / "docs" / "fleet.yml")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("severity=critical alertname=EngineDown", "pager"),
        ("severity=warning alertname=DimmHot", "team"),
        ("severity=info alertname=GovernorNotPerformance", "team"),
        ("severity=warning alertname=RemedyFailed remedy=cool-memory", "pager"),
        ("severity=none alertname=RemedyRunning remedy=cool-memory", "nobody"),
        ("severity=none alertname=AgentWatchdog", "dead-mans-switch"),
        ("severity=critical alertname=SteadytokManyDown", "platform"),
    ],
)
def test_alerts_go_to_whom_they_concern(labels: str, receiver: str) -> None:
    """By amtool, of the shipped example."""
    example = f"--config.file={HOUSE}/docs/examples/alertmanager.yml"
    arguments = [processes.require_program("amtool"), "config", "routes", "test", example, *labels.split()]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)

    assert done.stdout.strip() == receiver, done.stderr


def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    """`mkdocs build --strict` has nothing to say, and no page asks anything of another host when it is read."""
    arguments = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(arguments, cwd=HOUSE, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 40
    foreign = re.compile(
        r"<(?:script|img|iframe)[^>]+src=\"(?:https?:)?//|<link[^>]+stylesheet[^>]+href=\"(?:https?:)?//"
    )
    for page in pages:
        assert not foreign.search(page.read_text()), page
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", sheet.read_text()), sheet
