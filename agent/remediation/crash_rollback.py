"""
Puts back what an agent that has died held where no lease is known, a server's weight in a HAProxy for one.

`python -m agent.remediation.crash_rollback FOLDER HAND TOKEN_FILE` is a child that waits until its standard input
closes, which even kill -9 of the agent brings about, and then reads in the journal what was held. It has loaded all
that it needs by then: an agent is killed where memory or the disk has run out.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from agent.actions import Action, ActionContext
from agent.remediation import catalog, executor
from agent.remediation.action_context import LiveActionContext
from agent.remediation.journal import JournalError, read_stored_state
from agent.remediation.model import Act, EventKind, Phase
from agent.runtime.child_process import ChildProcess
from agent.text import terminal
from rules.history.history import History

IGNORED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGABRT)
"""What systemd sends to every process of a unit at once when it stops it, by its watchdog too: not heeded."""
ROLLBACK_TIMEOUT = 5.0  # seconds: after ten systemd kills what is left of the unit
CLOSE_TIMEOUT = 6.0  # seconds for all of it where the agent waits; it may have been started just now, on a busy host
RETRY_SECONDS = 0.5  # seconds until what did not answer is asked again


class CrashRollback:
    """The agent's side: the child is there as soon as any remedy may need it."""

    def __init__(self, folder: Path, hand: str, token_file: Path) -> None:
        arguments = ("agent.remediation.crash_rollback", str(folder), hand, str(token_file))
        self._child = ChildProcess(
            "dead_man", arguments, on_line=lambda _: None, on_end=lambda: None, grace_period=CLOSE_TIMEOUT
        )

    def start_if_needed(self, actions: Iterable[Action]) -> None:
        """Starts it where one of the actions that may really be done lasts."""
        if not self._child.is_started and any(action.LASTING for action in actions):
            self._child.start()

    async def close(self) -> None:
        """Lets it do its work, after the journal has been closed."""
        if self._child.is_started:
            await self._child.close()


def main() -> int:
    """0 where nothing is held any more; else 1, and the agent's next start sees to it."""
    for signal_number in IGNORED_SIGNALS:
        signal.signal(signal_number, signal.SIG_IGN)
    folder, hand, token_file = sys.argv[1:]
    context = LiveActionContext(History(60_000).snapshot({}), 0, "/", hand, Path(token_file))
    while os.read(sys.stdin.fileno(), 1 << 12):
        pass
    try:
        return 0 if roll_back(Path(folder), context) else 1
    except JournalError as error:
        _print_error(str(error))
        return 1


def roll_back(folder: Path, context: ActionContext) -> bool:
    """Whether all that lasts has been put back, or is somebody else's by now; raises JournalError."""
    remaining = [
        act
        for act in read_stored_state(folder).acts
        if act.phase is not Phase.STARTED and act.reversible and not act.observed
    ]
    deadline = time.monotonic() + ROLLBACK_TIMEOUT
    while remaining := [act for act in remaining if not _roll_back_act(act, context)]:
        if time.monotonic() > deadline:
            return False
        time.sleep(RETRY_SECONDS)
    return True


def _roll_back_act(act: Act, context: ActionContext) -> bool:
    """Whether nothing is to be done about it any more."""
    try:
        action, task = catalog.from_undo_recipe(act.remedy, act.means, {} if act.is_posted else dict(act.labels))
    except Exception as error:  # its action has been uninstalled: the others are put back all the same
        _print_error(f"{act.resource} cannot be put back: {type(error).__name__}: {error}")
        return True
    if not action.LASTING:
        return True
    event = executor.undo_job(act, action, task, context, 0.0)()
    _print_error(f"{act.resource}: {event.kind.value} {event.detail}".strip())
    return event.kind in (EventKind.RESTORED, EventKind.CHANGED)


def _print_error(sentence: str) -> None:
    with contextlib.suppress(OSError):  # whoever read this is dead
        terminal.say(sentence, err=True)


if __name__ == "__main__":
    sys.exit(main())
