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

from agent.actions import Action, Reach
from agent.remediation import catalog, executor
from agent.remediation.action_context import Access
from agent.remediation.journal import JournalError, stored
from agent.remediation.model import Act, Kind, Phase
from agent.runtime.child_process import Child
from agent.text import terminal
from rules.history.history import History

TOO_EARLY = (signal.SIGTERM, signal.SIGINT, signal.SIGABRT)
"""What systemd sends to every process of a unit at once when it stops it, by its watchdog too: not heeded."""
LONGEST = 5.0  # seconds: after ten systemd kills what is left of the unit
FAREWELL = 6.0  # seconds for all of it where the agent waits; it may have been started just now, on a busy host
AGAIN = 0.5  # seconds until what did not answer is asked again


class DeadMan:
    """The agent's side: the child is there as soon as any remedy may need it."""

    def __init__(self, folder: Path, hand: str, token_file: Path) -> None:
        arguments = ("agent.remediation.crash_rollback", str(folder), hand, str(token_file))
        self._child = Child("dead_man", arguments, on_line=lambda _: None, on_end=lambda: None, patience=FAREWELL)

    def see(self, actions: Iterable[Action]) -> None:
        """Starts it where one of the actions that may really be done lasts."""
        if not self._child.started and any(map(_lasts, actions)):
            self._child.start()

    async def close(self) -> None:
        """Lets it do its work, after the journal has been closed."""
        if self._child.started:
            await self._child.close()


def main() -> int:
    """0 where nothing is held any more; else 1, and the agent's next start sees to it."""
    for number in TOO_EARLY:
        signal.signal(number, signal.SIG_IGN)
    folder, hand, token_file = sys.argv[1:]
    reach = Access(History(60_000).snapshot({}), 0, "/", hand, Path(token_file))
    while os.read(sys.stdin.fileno(), 1 << 12):
        pass
    try:
        return 0 if put_back(Path(folder), reach) else 1
    except JournalError as error:
        _say(str(error))
        return 1


def put_back(folder: Path, reach: Reach) -> bool:
    """Whether all that lasts has been put back, or is somebody else's by now; raises JournalError."""
    left = [
        act for act in stored(folder).acts if act.phase is not Phase.STARTED and act.reversible and not act.observed
    ]
    until = time.monotonic() + LONGEST
    while left := [act for act in left if not _let_go(act, reach)]:
        if time.monotonic() > until:
            return False
        time.sleep(AGAIN)
    return True


def _let_go(act: Act, reach: Reach) -> bool:
    """Whether nothing is to be done about it any more."""
    try:
        action, task = catalog.by_means(act.remedy, act.means, {} if act.posted else dict(act.labels))
    except Exception as error:  # its action has been uninstalled: the others are put back all the same
        _say(f"{act.resource} cannot be put back: {type(error).__name__}: {error}")
        return True
    if not _lasts(action):
        return True
    event = executor.undoing(act, action, task, reach, 0.0)()
    _say(f"{act.resource}: {event.kind.value} {event.says}".strip())
    return event.kind in (Kind.RESTORED, Kind.CHANGED)


def _lasts(action: Action) -> bool:
    return bool(getattr(action, "LASTING", False))


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):  # whoever read this is dead
        terminal.say(sentence, err=True)


if __name__ == "__main__":
    sys.exit(main())
