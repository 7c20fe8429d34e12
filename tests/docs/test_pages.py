"""Tests of the pages: valid links, existing names, working examples, and current references."""

from __future__ import annotations

import ast
import re
import urllib.parse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from agent.actions import Http, Task
from agent.config import loader, schema
from agent.remediation.action_defaults import complete_action
from agent.remediation.plugins import load_actions
from agent.sampling import plugins
from collectors import Host
from docs import fields
from docs.__main__ import find_stale_pages
from rules.rulefile import load_rules
from tests.conftest import Machine, Series
from tests.docs.pages import HOUSE, PAGES, Block, format_path, list_anchors, list_blocks, list_links, read_prose
from tests.grafana import metric_names

SELF = "https://github.com/steadytok/steadytok/"
by_page = pytest.mark.parametrize("page", PAGES, ids=format_path)
YAML = [block for page in PAGES for block in list_blocks(page) if block.language == "yaml"]
# Names that look like metrics of this project, with the reason.
NOT_METRICS = {
    "steadytok_conntrack_entries": "the example of how to add a collector",
    "steadytok_conntrack_limit": "the example of how to add a collector",
}


def test_the_generated_pages_are_current() -> None:
    """The reference pages have every setting, metric, rule and command of the code."""

    assert find_stale_pages() == [], "not current: run make docs"


def test_every_setting_says_what_it_is() -> None:
    """Each key has a docstring in the source, which the reference shows."""
    kinds: list[type] = [
        kind for kind in vars(schema).values() if isinstance(kind, type) and issubclass(kind, schema.Section)
    ]
    kinds += [kind for kind in plugins.find_config_types(plugins.load_collectors()).values() if kind is not None]
    kinds += [complete_action(module).Config for module in load_actions().values()]
    silent = [
        f"{kind.__module__}.{kind.__name__}.{field.name}"
        for kind in kinds
        for field in fields.list_fields(kind)
        if not field.description and not (kind is schema.CollectorSettings and field.name == "config")
    ]

    assert silent == []


@by_page
def test_links_within_lead_somewhere(page: Path) -> None:
    """Each internal link leads to a file of the repository, and each anchor to a heading."""
    broken = []
    for link in list_links(page):
        inner = link.startswith((f"{SELF}blob/main/", f"{SELF}tree/main/"))
        if link.startswith("http") and not inner:
            continue
        path, _, anchor = re.sub(rf"^{SELF}(blob|tree)/main/", "", link).partition("#")
        target = (HOUSE if inner else page.parent) / path if path else page
        if not target.exists() or (anchor and anchor not in list_anchors(target)):
            broken.append(link)

    assert broken == []


@by_page
def test_links_without_are_addresses(page: Path) -> None:
    """External links use https, except those to this machine; the test connects to none of them."""
    for link in list_links(page):
        parts = urllib.parse.urlsplit(link)
        if parts.scheme:
            local = parts.hostname == "127.0.0.1"
            assert parts.scheme == "https" or (local and parts.scheme == "http"), link
            assert parts.hostname
            assert re.fullmatch(r"[\w.-]+", parts.hostname), link


@by_page
def test_files_that_are_named_are_there(page: Path) -> None:
    """A path in backticks below a folder of the project exists, except for placeholders in capitals."""
    rooms = "agent|bench|collectors|docs|engine|grafana|hand|rules|systemd|tests"
    paths = re.findall(rf"`((?:{rooms})/[\w./-]*)`", read_prose(page))
    missing = [path for path in paths if not re.search(r"[A-Z]{4}|conntrack", path) and not (HOUSE / path).exists()]

    assert missing == []


@by_page
def test_metrics_that_are_named_are_emitted(page: Path) -> None:
    """The agent or the reference engine emits each named metric; a trailing underscore names a whole prefix."""
    page_text = page.read_text(encoding="utf-8")
    text = re.sub(r"\| grep .*", "", page_text)  # a part of a name is enough for grep; make deep runs these
    known_names = metric_names.list_emitted_metrics() | metric_names.list_engine_metrics() | NOT_METRICS.keys()
    unknown = [
        name
        for name in re.findall(r"\b(?:(?:instance|job|steadytok):)?steadytok_[a-z0-9_]+(?::\w+)?", text)
        if name not in known_names and not (name.endswith("_") and any(each.startswith(name) for each in known_names))
    ]

    assert unknown == []


def test_metrics_of_the_examples_are_emitted() -> None:
    """A fleet's rules use series that agents emit, that the rules record, or that a scrape creates."""
    for path in metric_names.EXAMPLES.glob("fleet-*.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                assert (
                    metric_names.find_metrics(rule["expr"])
                    <= metric_names.list_emitted_metrics() | metric_names.PROMETHEUS_METRICS
                ), rule


@pytest.mark.parametrize("block", YAML, ids=str)
def test_an_example_in_yaml_is_taken(block: Block, tmp_path: Path) -> None:
    """Each example is a valid configuration, a valid rule file, or YAML for Alertmanager."""
    content: Any = yaml.safe_load(block.text)
    if "groups" in content:
        path = tmp_path / "rules.yml"
        path.write_text(block.text)
        assert load_rules([path]).groups
    elif not {"route", "receivers"} & content.keys():
        types = plugins.find_config_types(plugins.load_collectors())
        assert loader.parse(content, str(block), types) is not None


def test_our_own_loader_takes_the_rules_of_a_fleet() -> None:
    """The agent also loads the fleet's rule files; the fleet's dashboard then shows one host."""

    assert load_rules(sorted(metric_names.EXAMPLES.glob("fleet-*.yml"))).groups


def _load_examples() -> list[dict[str, Any]]:
    """The Python of docs/extending.md, run: a collector and an action."""
    modules: list[dict[str, Any]] = []
    for block in (block for block in list_blocks(HOUSE / "docs" / "extending.md") if block.language == "python"):
        modules.append({})
        exec(compile(ast.parse(block.text), str(block), "exec"), modules[-1])
    return modules


def test_the_action_of_the_page_is_an_action() -> None:
    """The example of docs/extending.md plans and acts, and has the default of everything that it leaves out."""
    _, module = _load_examples()
    action = complete_action(SimpleNamespace(**module))
    task = Task("mine", {"engine": "r1"}, action.Config(), {}, {"r1": "http://127.0.0.1:1"})
    context: Any = SimpleNamespace(http=lambda method, url: Http(200, f"{method} {url}"))

    assert action.resource(task) == "prefix cache of engine r1"
    assert action.do(task, action.plan(task, context), context) == "HTTP 200"
    assert (action.REVERSIBLE, action.NAMED, action.TTL, list(action.faults(task))) == (False, True, None, [])


def test_the_collector_of_the_page_works(machine: Machine, series: Series) -> None:
    """The example of docs/extending.md is a collector: it reads values, and yields nothing on an empty host."""
    module, _ = _load_examples()
    folder = "proc/sys/net/netfilter"
    host = machine({f"{folder}/nf_conntrack_count": "812\n", f"{folder}/nf_conntrack_max": "262144\n"})

    assert series(module["collect"](host)) == {"steadytok_conntrack_entries": 812, "steadytok_conntrack_limit": 262144}
    assert list(module["collect"](Host(host.path("nowhere")))) == []


def test_every_page_is_in_the_navigation() -> None:
    """Every page is in the navigation; runbooks are in their own list."""
    text = (HOUSE / "mkdocs.yml").read_text()
    listed = set(re.findall(r"[\w./-]+\.md", text.split("nav:")[1].split("not_in_nav")[0]))
    page_names = {str(page.relative_to(HOUSE / "docs")) for page in PAGES if page.is_relative_to(HOUSE / "docs")}
    runbooks = {name for name in page_names if name.startswith("runbooks/")}

    assert page_names - runbooks <= listed
    assert listed <= page_names
    for name in runbooks - {"runbooks/README.md"}:
        assert f"]({Path(name).name})" in (HOUSE / "docs" / "runbooks" / "README.md").read_text()


def test_the_picture_of_the_readme_is_there_and_small() -> None:
    """tests/deep/test_picture.py makes it; a README is read over slow lines too."""
    picture = (HOUSE / "docs" / "images" / "page.png").read_bytes()

    assert picture.startswith(b"\x89PNG\r\n")
    assert len(picture) < 150_000


def test_the_example_for_kubernetes_holds_a_configuration() -> None:
    """The manifests are YAML, and the configuration in the ConfigMap is one that the agent accepts."""
    manifests = list(yaml.safe_load_all((metric_names.EXAMPLES / "daemonset.yml").read_text()))
    settings = yaml.safe_load(manifests[1]["data"]["steadytok.yml"])
    types = plugins.find_config_types(plugins.load_collectors())

    assert [manifest["kind"] for manifest in manifests] == ["Namespace", "ConfigMap", "DaemonSet"]
    assert loader.parse(settings, "daemonset.yml", types).engine.enabled is False
