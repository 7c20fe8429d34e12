"""The front page: what the terminal's table shows, for a browser; it draws itself again every two seconds."""

from __future__ import annotations

import html
from collections.abc import Iterable

from agent.screen import Row
from agent.view import View
from rules.alerts import Alert

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><title>{title}</title>
<style>
:root{{color-scheme:light dark}}
body{{font:16px/1.5 system-ui,sans-serif;margin:3rem auto;max-width:48rem;padding:0 1rem}}
td{{padding:.1rem 1.5rem .1rem 0;vertical-align:top}} td:first-child{{font-weight:600;white-space:nowrap}}
.green{{color:#1a7f37}} .yellow{{color:#b35900}} .red,.bold{{color:#c62828;font-weight:600}} .dim{{opacity:.6}}
.drawing{{white-space:pre;font-family:monospace}} code{{background:#8882;padding:.1em .3em;border-radius:.2em}}
</style></head><body>
<h1>{title}</h1>
<table>{rows}</table>
{alerts}
<p><a href="/metrics">/metrics</a> has every reading ({series} series) for Prometheus;
<a href="/-/healthy">/-/healthy</a> and <a href="/-/ready">/-/ready</a> are for whoever watches the agent.
<code>steadytok check</code> says what works on this host and what does not.</p>
</body></html>
"""


def page(view: View, rows: Iterable[Row], instance: str) -> str:
    """The view as a page that needs nothing else: no script, no other file."""
    return _PAGE.format(
        title=html.escape(f"steadytok on {instance}"),
        rows="".join(map(_row, rows)),
        alerts="".join(map(_alert, view.alerts)),
        series=view.series,
    )


def _row(row: Row) -> str:
    colour, text, drawing = (html.escape(part) for part in (row.colour, row.text, row.drawing))
    return (
        f'<tr><td>{html.escape(row.label)}</td><td class="{colour}">{text}</td>'
        f'<td class="drawing {colour}">{drawing}</td></tr>\n'
    )


def _alert(alert: Alert) -> str:
    annotations = dict(alert.annotations)
    summary, description = (html.escape(annotations.get(key, "")) for key in ("summary", "description"))
    severity = html.escape(dict(alert.labels).get("severity", ""))
    return f"<p><b>{html.escape(alert.name)}</b> ({severity}): {summary}<br><span class=dim>{description}</span></p>\n"
