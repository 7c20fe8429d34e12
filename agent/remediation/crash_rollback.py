"""
Undoes the acts of a dead agent that hold no lease, such as a server's weight in a HAProxy.

`python -m agent.remediation.crash_rollback FOLDER HAND TOKEN_FILE` is a child of the agent. It waits for the end of its
standard input, which even kill -9 of the agent causes, and then undoes the acts in the journal that are still held. By
then it has loaded all modules that it needs: agents are killed when memory or the disk has run out.
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
from agent.runtime.errors import describe_fault
from agent.text import terminal
from rules.history.history import History

IGNORED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGABRT)
"""The signals that systemd sends to every process of a unit at once when it stops it, by its watchdog too."""
ROLLBACK_TIMEOUT = 5.0  # seconds: after ten systemd kills the rest of the unit
CLOSE_TIMEOUT = 6.0  # seconds that the agent waits for the whole child, which may have started just now, on a busy host
RETRY_SECONDS = 0.5  # seconds between two tries


class CrashRollback:
    """The agent's side: starts the child once a remedy may need it."""

    def __init__(self, folder: Path, hand: str, token_file: Path) -> None:
        arguments = ("agent.remediation.crash_rollback", str(folder), hand, str(token_file))
        self._child = ChildProcess(
            "dead_man", arguments, on_line=lambda _: None, on_end=lambda: None, grace_period=CLOSE_TIMEOUT
        )

    def start_if_needed(self, actions: Iterable[Action]) -> None:
        """Starts the child if an action that may really run is lasting."""
        if not self._child.is_started and any(action.LASTING for action in actions):
            self._child.start()

    async def close(self) -> None:
        """Lets the child do its work, after the journal has been closed."""
        if self._child.is_started:
            await self._child.close()


def main() -> int:
    """Returns 0 if nothing is held any more; else 1, and the agent's next start undoes the rest."""
    for signal_number in IGNORED_SIGNALS:
        signal.signal(signal_number, signal.SIG_IGN)
    folder, hand, token_file = sys.argv[1:]
    context = LiveActionContext(History(60_000).snapshot(), 0, "/", hand, Path(token_file))
    while os.read(sys.stdin.fileno(), 1 << 12):
        pass
    try:
        return 0 if roll_back(Path(folder), context) else 1
    except JournalError as error:
        _print_error(str(error))
        return 1


def roll_back(folder: Path, context: ActionContext) -> bool:
    """Returns True once every lasting act is undone or its value was changed by someone else; raises JournalError."""
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
    """Tries to undo one act; returns True if the act needs no more work."""
    try:
        action, task = catalog.from_undo_recipe(act.remedy, act.undo_recipe, {} if act.is_posted else dict(act.labels))
    except Exception as error:  # its action has been uninstalled: the other acts are undone all the same
        _print_error(f"{act.resource} cannot be undone: {describe_fault(error)}")
        return True
    if not action.LASTING:
        return True
    event = executor.make_undo_job(act, action, task, context, 0.0)()
    _print_error(f"{act.resource}: {event.kind.value} {event.detail}".strip())
    return event.kind in (EventKind.RESTORED, EventKind.CHANGED)


def _print_error(sentence: str) -> None:
    with contextlib.suppress(OSError):  # the reader of standard error is dead
        terminal.say(sentence, err=True)


if __name__ == "__main__":
    sys.exit(main())
