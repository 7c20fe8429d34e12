"""The pages: links that lead somewhere, names that exist, examples that work, and references as the code has them."""

from __future__ import annotations

import ast
import re
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import loader, schema
from agent.remediation.plugins import load_actions
from agent.sampling import plugins
from collectors import Host
from docs import fields
from docs.__main__ import find_stale_pages
from rules.rulefile import load_rules
from tests.conftest import Machine, Series
from tests.docs.pages import HOUSE, PAGES, Block, anchors, blocks, links, named, prose
from tests.grafana import names

SELF = "https://github.com/steadytok/steadytok/"
by_page = pytest.mark.parametrize("page", PAGES, ids=named)
YAML = [block for page in PAGES for block in blocks(page) if block.language == "yaml"]
# Names that are no metrics of ours, with the reason.
NOT_METRICS = {
    "steadytok_conntrack_entries": "the example of how to add a collector",
    "steadytok_conntrack_limit": "the example of how to add a collector",
}


def test_the_generated_pages_are_current() -> None:
    """Else a setting, a metric, a rule or a command is not in the reference."""

    assert find_stale_pages() == [], "not current: run make docs"


def test_every_setting_says_what_it_is() -> None:
    """Each key has a sentence below it in the source: that is what the reference shows."""
    kinds: list[type] = [
        kind for kind in vars(schema).values() if isinstance(kind, type) and issubclass(kind, schema.Section)
    ]
    kinds += [kind for kind in plugins.find_config_types(plugins.load_collectors()).values() if kind is not None]
    kinds += [module.Config for module in load_actions().values()]
    silent = [
        f"{kind.__module__}.{kind.__name__}.{field.name}"
        for kind in kinds
        for field in fields.list_fields(kind)
        if not field.description and not (kind is schema.CollectorSettings and field.name == "config")
    ]

    assert silent == []


@by_page
def test_links_within_lead_somewhere(page: Path) -> None:
    """Each target is a file of the repository, and each anchor a heading of it."""
    broken = []
    for link in links(page):
        inner = link.startswith((f"{SELF}blob/main/", f"{SELF}tree/main/"))
        if link.startswith("http") and not inner:
            continue
        path, _, anchor = re.sub(rf"^{SELF}(blob|tree)/main/", "", link).partition("#")
        target = (HOUSE if inner else page.parent) / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []


@by_page
def test_links_without_are_addresses(page: Path) -> None:
    """They are https, but for this machine; whether somebody answers there is not a test's business."""
    for link in links(page):
        parts = urllib.parse.urlsplit(link)
        if parts.scheme:
            local = parts.hostname == "127.0.0.1"
            assert parts.scheme == "https" or (local and parts.scheme == "http"), link
            assert parts.hostname
            assert re.fullmatch(r"[\w.-]+", parts.hostname), link


@by_page
def test_files_that_are_named_are_there(page: Path) -> None:
    """A path in backticks that begins with a folder of ours is one, but for placeholders in capitals."""
    rooms = "agent|bench|collectors|docs|engine|grafana|hand|rules|systemd|tests"
    found = re.findall(rf"`((?:{rooms})/[\w./-]*)`", prose(page))
    missing = [path for path in found if not re.search(r"[A-Z]{4}|conntrack", path) and not (HOUSE / path).exists()]

    assert missing == []


@by_page
def test_metrics_that_are_named_are_emitted(page: Path) -> None:
    """By the agent, or by the reference engine; a name that ends in an underscore stands for all that begin so."""
    whole = page.read_text(encoding="utf-8")
    text = re.sub(r"\| grep .*", "", whole)  # of which a part of a name is enough; make deep types these
    known = names.emitted() | names.of_the_engine() | NOT_METRICS.keys()
    unknown = [
        name
        for name in re.findall(r"\b(?:(?:instance|job|steadytok):)?steadytok_[a-z0-9_]+(?::\w+)?", text)
        if name not in known and not (name.endswith("_") and any(each.startswith(name) for each in known))
    ]

    assert unknown == []


def test_metrics_of_the_examples_are_emitted() -> None:
    """What a fleet's rules ask for is what agents give, what they record, or what a scrape makes."""
    for path in names.EXAMPLES.glob("fleet-*.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                assert names.asked(rule["expr"]) <= names.emitted() | names.PROMETHEUS_OWN, rule


@pytest.mark.parametrize("block", YAML, ids=str)
def test_an_example_in_yaml_is_taken(block: Block, tmp_path: Path) -> None:
    """As a configuration, as rules, or (of Alertmanager's own form) as YAML at least."""
    told: Any = yaml.safe_load(block.text)
    if "groups" in told:
        path = tmp_path / "rules.yml"
        path.write_text(block.text)
        assert load_rules([path]).groups
    elif not {"route", "receivers"} & told.keys():
        types = plugins.find_config_types(plugins.load_collectors())
        assert loader.parse(told, str(block), types) is not None


def test_our_own_loader_takes_the_rules_of_a_fleet() -> None:
    """Ordinary rule files: the agent can have them too, and the fleet's dashboard shows one host then."""

    assert load_rules(sorted(names.EXAMPLES.glob("fleet-*.yml"))).groups


def test_the_collector_of_the_page_works(machine: Machine, series: Series) -> None:
    """The example of docs/extending.md is a collector: it reads, and is silent where there is nothing."""
    (block,) = [each for each in blocks(HOUSE / "docs" / "extending.md") if each.language == "python"]
    module: dict[str, Any] = {}
    exec(compile(ast.parse(block.text), str(block), "exec"), module)
    folder = "proc/sys/net/netfilter"
    host = machine({f"{folder}/nf_conntrack_count": "812\n", f"{folder}/nf_conntrack_max": "262144\n"})

    assert series(module["collect"](host)) == {"steadytok_conntrack_entries": 812, "steadytok_conntrack_limit": 262144}
    assert list(module["collect"](Host(host.path("nowhere")))) == []


def test_every_page_is_in_the_navigation() -> None:
    """A page that nobody can come to is not written; runbooks are come to by their list."""
    text = (HOUSE / "mkdocs.yml").read_text()
    listed = set(re.findall(r"[\w./-]+\.md", text.split("nav:")[1].split("not_in_nav")[0]))
    there = {str(page.relative_to(HOUSE / "docs")) for page in PAGES if page.is_relative_to(HOUSE / "docs")}
    runbooks = {name for name in there if name.startswith("runbooks/")}

    assert there - runbooks <= listed
    assert listed <= there
    for name in runbooks - {"runbooks/README.md"}:
        assert f"]({Path(name).name})" in (HOUSE / "docs" / "runbooks" / "README.md").read_text()
