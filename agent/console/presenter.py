"""Shows people what the agent sees: the view on the terminal, and the status line of `systemctl status`."""

from __future__ import annotations

from collections.abc import Callable

from agent.console.host_view import HostViewBuilder, is_shown
from agent.console.live_table import Screen
from agent.engines.baseline import Baseline
from agent.remediation.remediator import Remediator
from agent.sampling.sampler import Sampler
from rules.alerts import AlertState
from rules.evaluator import RuleEvaluator
from rules.history.history import History


class Presenter:
    """Draws one host on one screen, if there is a screen."""

    def __init__(
        self,
        screen: Screen | None,
        *,
        history: History,
        rules: Callable[[], RuleEvaluator],
        baseline: Baseline,
        sampler: Sampler,
        remediator: Remediator,
        has_canary: bool,
    ) -> None:
        self.address = ""  # the URL of the web page, once the agent listens
        self._screen = screen
        self._history = history
        self._rules = rules
        self._baseline = baseline
        self._sampler = sampler
        self._remediator = remediator
        self._has_canary = has_canary
        self._view_builder = HostViewBuilder()

    def show(self, now_ms: int) -> None:
        """Draws the view where it is due."""
        if self._screen is None or not self._screen.is_due():
            return
        alerts = self._rules().alerts()
        pacing_reasons = [memory.says for _, memory in self._remediator.iter_steered()]
        view = self._view_builder.build(
            self._history, alerts, self._baseline, now_ms, canary=self._has_canary, pacing=pacing_reasons
        )
        self._screen.show(view)

    def is_terminal_gone(self) -> bool:
        """True once the terminal that showed the view has been closed."""
        return self._screen is not None and not self._screen.is_open()

    def format_status(self) -> str:
        """The agent in one line, for `systemctl status`."""
        firing = sum(alert.state is AlertState.FIRING and is_shown(alert) for alert in self._rules().alerts())
        return f"{self.address}  {len(self._sampler.states)} collectors, {firing} alerts firing"
