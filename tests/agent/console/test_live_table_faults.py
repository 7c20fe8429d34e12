"""Names are not markup. For tests/agent/console/test_live_table.py."""

from __future__ import annotations

import io

from rich.console import Console

from agent.console.host_view import EngineView, View
from agent.console.live_table import table


def test_an_engines_name_is_no_markup() -> None:
    """Square brackets in a name are shown as they are; rich would raise, and end the agent."""
    engine = EngineView("[/r1]", up=True, speed=None, baseline=None, learnt=0.0)
    view = View((engine,), None, None, None, None, (), None, None, (), (), 0, starting=False)
    stream = io.StringIO()
    Console(file=stream, width=100).print(table(view, "http://x/"))

    assert "[/r1]" in stream.getvalue()
