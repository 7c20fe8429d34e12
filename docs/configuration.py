"""Renders the page of every setting from the configuration's types."""

from __future__ import annotations

from collections.abc import Iterator

from agent.config import schema
from agent.remediation.action_defaults import complete_action
from agent.remediation.plugins import load_actions
from agent.sampling import plugins
from docs.fields import DocumentedField, list_fields

HEAD = """# Configuration reference

The file is YAML; `steadytok run --config FILE` reads it, and again at SIGHUP. Without one everything has its default.
`run` reports every fault of the file at once, each with its place and the expected value. Durations have their unit
(`500ms`, `1s`, `10m`, `1h`). [Configuration](../configuration.md) shows how to begin, with examples.

"""


def render_page() -> str:
    """Returns the whole page as Markdown."""
    parts = [HEAD, *_render_section("The file", "", schema.AgentConfig)]
    parts += ["## Collectors\n\n", "Settings of every collector, under `collectors.NAME`:\n\n"]
    parts += _render_table(field for field in list_fields(schema.CollectorSettings) if field.name != "config")
    modules = plugins.load_collectors()
    for name, module in sorted(modules.items()):
        parts += _render_collector(name, module)
    parts += ["## Actions\n\n", "Keys under a remedy's `parameters`, by its `action`:\n\n"]
    for name, module in sorted(load_actions().items()):
        parts += [
            f"### {name}\n\n",
            f"{_get_first_paragraph(module.__doc__)}\n\n",
            *_render_tables(complete_action(module).Config, ""),
        ]
    return "".join(parts).rstrip() + "\n"


def _render_collector(name: str, module: object) -> Iterator[str]:
    config = getattr(module, "Config", None)
    if config is None or not getattr(module, "CONFIG_DOCUMENTED", True):
        return
    yield f"### collectors.{name}\n\n{_get_first_paragraph(config.__doc__)}\n\n"
    yield from _render_tables(config, f"collectors.{name}.")


def _render_tables(kind: type, path: str) -> Iterator[str]:
    """Yields the keys of a section, then those of its subsections."""
    section_fields = list(list_fields(kind))
    yield from _render_table(section_fields)
    for field in (field for field in section_fields if field.section is not None):
        yield f"Keys of `{path}{field.name}`:\n\n"
        yield from _render_table(list_fields(field.section) if field.section is not None else [])


def _render_section(title: str, path: str, kind: type) -> Iterator[str]:
    yield f"## {title}\n\n{_get_first_paragraph(kind.__doc__) if path else 'The keys at the top of the file.'}\n\n"
    section_fields = [field for field in list_fields(kind) if field.name != "own"]
    yield from _render_table(section_fields)
    for field in section_fields:
        if field.section is not None and field.section is not schema.CollectorSettings:
            section_path = f"{path}.{field.name}".strip(".")
            yield from _render_section(section_path, section_path, field.section)


def _render_table(table_fields: Iterator[DocumentedField] | list[DocumentedField]) -> Iterator[str]:
    rows = list(table_fields)
    if not rows:
        yield "No keys.\n\n"
        return
    yield "| key | type | default | description |\n|---|---|---|---|\n"
    for field in rows:
        yield f"| `{field.name}` | {field.kind} | {field.default} | {field.description.replace('|', chr(92) + '|')} |\n"
    yield "\n"


def _get_first_paragraph(text: str | None) -> str:
    return (text or "").strip().split("\n\n")[0].replace("\n", " ")
