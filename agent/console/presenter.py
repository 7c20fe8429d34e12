"""Shows people what the agent sees: the view on the terminal, and the status line of `systemctl status`."""

from __future__ import annotations

from collections.abc import Callable

from agent.console.host_view import HostContext, HostView, is_shown
from agent.console.live_table import Screen
from rules.alerts import AlertState


class Presenter:
    """Draws one host on one screen, if there is a screen."""

    def __init__(self, screen: Screen | None, context: HostContext, count_collectors: Callable[[], int]) -> None:
        self.address = ""  # the URL of the web page, once the agent listens
        self._screen = screen
        self._context = context
        self._count_collectors = count_collectors
        self._view = HostView(screen, context)

    def show(self, now_ms: int) -> None:
        """Draws the view if it is due."""
        self._view.show(now_ms)

    def is_terminal_gone(self) -> bool:
        """True once the terminal that showed the view has been closed."""
        return self._screen is not None and not self._screen.is_open()

    def format_status(self) -> str:
        """Returns the agent in one line, for `systemctl status`."""
        firing = sum(alert.state is AlertState.FIRING and is_shown(alert) for alert in self._context.alerts())
        return f"{self.address}  {self._count_collectors()} collectors, {firing} alerts firing"
