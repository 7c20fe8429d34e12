"""The table of docs/actions.md, from the modules of the actions."""

from __future__ import annotations

from agent.actions import Action
from agent.remediation import plugins
from agent.remediation.action_defaults import complete_action
from docs.fields import list_fields

BEGIN = "<!-- The table is written by `make docs` from agent/actions/; change it there. -->\n\n"
END = "\n<!-- End of the table. -->\n"
HEAD = "| action | target | parameters | needs | comes back |\n|---|---|---|---|---|\n"


def render_page(page: str) -> str:
    """Returns the page with the table as the code has it."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    actions = {name: complete_action(module) for name, module in sorted(plugins.load_actions().items())}
    rows = [_render_row(name, action) for name, action in actions.items()]
    return "".join((before, BEGIN, HEAD, *rows, END, after))


def _render_row(name: str, action: Action) -> str:
    target = ", ".join(f"`{key}`" for key in action.TARGET)
    no_default = ("", "`null`", "null")
    parameters = ", ".join(
        f"`{field.name}`" + ("" if field.default in no_default else f" {field.default}")
        for field in list_fields(action.Config)
    )
    needs = ", ".join(filter(None, ("hand" if action.VERBS else "", action.NEEDS)))
    kept_by = "lease" if action.TTL is not None else "yes"
    comes_back = "no" if not action.REVERSIBLE else f"{kept_by} ²" if action.LASTING else kept_by
    cells = (f"`{name}`{' ¹' if action.NAMED else ''}", target, parameters, needs, comes_back)
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|\n"
