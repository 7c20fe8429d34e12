"""Renders the page of every built-in rule and remedy from their files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

PROJECT_ROOT = Path(__file__).parents[1]
BUILTIN = PROJECT_ROOT / "rules" / "builtin"
REMEDIES = PROJECT_ROOT / "agent" / "actions" / "builtin.yml"

HEAD = """# Rules and remedies reference

The built-in alerts, each with a runbook, and the built-in remedies. The rules are ordinary Prometheus rules;
`rules.disable` leaves some out, and `rules.files` adds yours.

"""


def render_page() -> str:
    """Returns the whole page as Markdown."""
    parts = [HEAD]
    for path in sorted(BUILTIN.glob("*.yml")):
        text = path.read_text(encoding="utf-8")
        introduction = text.split("\ngroups:")[0].lstrip("# ").replace("\n# ", " ").strip()
        parts += [f"## {path.stem}\n\n{introduction}\n\n", *_render_alerts(yaml.safe_load(text)["groups"])]
    parts += ["## Remedies\n\nThey observe until `remediation.mode` is `enforce`.\n\n", *_render_remedies()]
    return "".join(parts).rstrip() + "\n"


def _render_alerts(groups: list[dict[str, Any]]) -> Iterator[str]:
    yield "| alert | severity | after | description |\n|---|---|---|---|\n"
    rules = [rule for group in groups for rule in group["rules"]]
    for rule in (rule for rule in rules if "alert" in rule):
        name, severity = rule["alert"], rule["labels"]["severity"]
        description = " ".join(rule["annotations"]["description"].split())
        yield f"| [{name}](../runbooks/{name}.md) | {severity} | {rule.get('for', 'at once')} | {description} |\n"
    recorded = [f"`{rule['record']}`" for rule in rules if "record" in rule]
    yield f"\nRecorded for the query API: {', '.join(recorded)}.\n\n" if recorded else "\n"


def _render_remedies() -> Iterator[str]:
    yield "| remedy | for | does | at most |\n|---|---|---|---|\n"
    for remedy in yaml.safe_load(REMEDIES.read_text(encoding="utf-8")):
        match = ", ".join(f"`{each}`" for each in remedy["match"]).replace("|", "\\|")
        action = " ".join(
            [remedy["action"], *(f"{name} {value}" for name, value in remedy.get("parameters", {}).items())]
        )
        limit = f"{remedy.get('max_per_hour', 3)} an hour, {remedy['cooldown']} apart"
        yield f"| {remedy['name']} | {match} | {action} | {limit} |\n"
