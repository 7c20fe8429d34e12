"""The page of every setting, from the types that the configuration is read into."""

from __future__ import annotations

from collections.abc import Iterator

from agent.config import schema
from agent.sampling import plugins
from docs.fields import Field, fields

HEAD = """# Configuration reference

The file is YAML; `steadytok run --config FILE` reads it, and again at SIGHUP. Without one everything has its default.
It is checked whole: every fault is told at once, with its place and what was expected. Durations have their unit
(`500ms`, `1s`, `10m`, `1h`). [Configuration](../configuration.md) says how to begin, with examples.

"""


def page() -> str:
    """The whole page, as Markdown."""
    parts = [HEAD, *_section("The file", "", schema.Config)]
    parts += ["## Collectors\n\n", "What every collector can be told, under `collectors.NAME`:\n\n"]
    parts += _table(field for field in fields(schema.CollectorSettings) if field.name != "own")
    found = plugins.modules()
    for name, module in sorted(found.items()):
        parts += _collector(name, module)
    parts += ["## Actions\n\n", "What stands under a remedy's `parameters`, by its `action`:\n\n"]
    for name, module in sorted(plugins.actions().items()):
        parts += [f"### {name}\n\n", f"{_first_line(module.__doc__)}\n\n", *_with_inner(module.Config, "")]
    return "".join(parts).rstrip() + "\n"


def _collector(name: str, module: object) -> Iterator[str]:
    config = getattr(module, "Config", None)
    if config is None or name == "engine":  # `engines:` at the top is where engines are named
        return
    yield f"### collectors.{name}\n\n{_first_line(config.__doc__)}\n\n"
    yield from _with_inner(config, f"collectors.{name}.")


def _with_inner(kind: type, path: str) -> Iterator[str]:
    """The keys of a section, and below them those of the sections in it."""
    found = list(fields(kind))
    yield from _table(found)
    for field in (field for field in found if field.inner is not None):
        yield f"Keys of `{path}{field.name}`:\n\n"
        yield from _table(fields(field.inner) if field.inner is not None else [])


def _section(title: str, path: str, kind: type) -> Iterator[str]:
    yield f"## {title}\n\n{_first_line(kind.__doc__) if path else 'The keys at the top of the file.'}\n\n"
    known = [field for field in fields(kind) if field.name != "own"]
    yield from _table(known)
    for field in known:
        if field.inner is not None and field.inner is not schema.CollectorSettings:
            inner = f"{path}.{field.name}".strip(".")
            yield from _section(inner, inner, field.inner)


def _table(found: Iterator[Field] | list[Field]) -> Iterator[str]:
    rows = list(found)
    if not rows:
        yield "It has no keys of its own.\n\n"
        return
    yield "| key | type | default | what it is |\n|---|---|---|---|\n"
    for field in rows:
        yield f"| `{field.name}` | {field.kind} | {field.default} | {field.about.replace('|', chr(92) + '|')} |\n"
    yield "\n"


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n\n")[0].replace("\n", " ")
