"""Names are not markup. For tests/agent/console/test_live_table.py."""

from __future__ import annotations

import io

from rich.console import Console

from agent.console.host_view import EngineView, HostView
from agent.console.live_table import build_table


def test_an_engines_name_is_no_markup() -> None:
    """Square brackets in a name are shown as they are; rich would raise, and end the agent."""
    engine = EngineView("[/r1]", up=True, speed=None, baseline=None, baseline_progress=0.0)
    view = HostView((engine,), None, None, None, None, (), None, None, (), (), 0, canary_starting=False)
    stream = io.StringIO()
    Console(file=stream, width=100).print(build_table(view, "http://x/"))

    assert "[/r1]" in stream.getvalue()
