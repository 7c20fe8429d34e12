"""
The contract of an action, whole, and one file for each action. An action imports no other action and nothing of
remediation: it reaches the host only through its context.

The folder is the list; third parties add `steadytok.actions`. Files that begin with an underscore are shared furniture.

A module must have

- `describe(task)`: the action in words, for people;
- `resource(task)`: the name of the resource that is acted upon; one act at a time holds it, and cooldowns belong to it;
- `plan(task, context)`: reads only, and returns a Plan; RefusedError where acting would not help or is not allowed;
- `do(task, plan, context)`: writes `plan.wanted`, reads it back and returns the value read. Each renewal of the lease
  calls it again; it must then find its own value or the prior one, or raise ChangedError.

A module may have, with the default that agent/remediation/action_defaults.py gives it

- `Config`: its parameters, a `msgspec.Struct` (frozen, keyword-only) (default: none);
- `TARGET`: the keys that `target:` may have (default: none);
- `VERBS`: the verbs of the hand that the action needs (default: none);
- `NEEDS`: the other needs of the action, in words for docs/actions.md (default: none);
- `NAMED`: True where `engine: each` is refused, since the operator must name the engine (default: False);
- `faults(task)`: one sentence for each fault in target and parameters, checked at the start (default: none);
- `sandbox_addresses(task)`: the addresses, HOST or HOST:PORT, that it connects to besides the engines, since the
  installed service can reach no others (default: the address of `target.url`, if there is one).

An action whose value can be restored sets `REVERSIBLE = True` (default False) and has `undo`. It may have

- `undo(task, plan, context)`: restores `plan.prior`, only while the value is one of `plan.ours`, else ChangedError; a
  lease that has ended by itself needs nothing;
- `TTL`: the seconds of its lease, None where it holds none (default: None);
- `LASTING`: True where the value written knows no lease, so that a child of the agent undoes it when the agent dies
  (default: False);
- `HOLDS_DUTY`: True where the value is the duty of `target.engine`, which the agent then exposes (default: False);
- `control_settings(task)`: the ControlSettings of the controller that moves the duty, None without one (default: None);
- `strength(task)`: of two claims on a resource the one with the lower strength wins (default: 0);
- `steer(task, memory, moment)`: the value to be held now, as (memory, value). Pure, and called at each tick with the
  memory returned the time before. A memory that is a Steered is shown to people. By default the value stays.

plan, do and undo run in a thread of their own, with a deadline; steer runs on the event loop. All arguments are
positional. Values are JSON. FailedError: nothing was done, so `read_only` wraps the reads before the first write.
RefusedError from `do`: nothing was touched. UnknownError, or any other exception from `do`: the outcome is unknown, and
the action is not tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from agent.pacing.settings import ControlSettings
from collectors import Host

PATIENCE = 5.0  # seconds for one answer of an engine or a proxy
QueryRows = list[tuple[dict[str, str], float]]
Vector = QueryRows  # its name in the first version of this contract


class ActionError(Exception):
    """An action did not run as planned; the message is one sentence for the audit."""


class RefusedError(ActionError):
    """Acting would not help, or is not allowed now; nothing was touched."""


class FailedError(ActionError):
    """The action was not done."""


class ChangedError(ActionError):
    """Someone else has changed the value, which stays as it is."""


class UnknownError(ActionError):
    """The action may have been done, or not."""


_Result = TypeVar("_Result")


def read_only(read: Callable[[], _Result]) -> _Result:
    """Calls `read`, which writes nothing: a lost answer is then a plain FailedError."""
    try:
        return read()
    except UnknownError as error:
        raise FailedError(f"{error}; nothing was done") from error


@dataclass(frozen=True)
class Task:
    """The work of an action: the remedy, its target and parameters (`own`), and the alert's labels."""

    remedy: str
    target: Mapping[str, str]
    own: Any
    labels: Mapping[str, str]
    engines: Mapping[str, str]
    """The URL of each engine by its name."""


class Plan(NamedTuple):
    """The prior value and the value to be written (`wanted`), both JSON, and a sentence that describes the change."""

    prior: Any
    wanted: Any
    says: str
    ours: tuple[Any, ...] = ()
    """The values that the agent may have written already."""
    untouched: float = 0.0
    """For `undo`: seconds since the last renewal."""


class Moment(NamedTuple):
    """The inputs of `steer`: the value held now; `lost` is True while the alert's evidence is silent."""

    now_ms: int
    held: Any
    lost: bool
    query: Callable[[str], QueryRows]
    beside: tuple[Task, ...] = ()
    """The tasks of the other claims on the resource, of the same action; the strictest value of all wins."""


@dataclass(frozen=True)
class Steered:
    """A memory of `steer` that people should see: a change of `reason` writes `says` into the audit."""

    reason: str
    says: str


class ActionContext(Protocol):
    """What an action may use: a snapshot of History, the machine's files, engines over HTTP, and the hand."""

    host: Host

    def query(self, expr: str) -> QueryRows:
        """Returns the value of an expression."""

    def http(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
    ) -> Http:
        """Sends one request; UnknownError if no answer came, FailedError if the connection was refused."""

    def http_with_proof(self, method: str, url: str, body: bytes, patience: float = PATIENCE) -> Http:
        """Sends one request signed with the pace token; FailedError where a success is not signed in turn."""

    def line(self, address: str, text: str) -> str:
        """Sends one line to a socket (`/PATH` or `HOST:PORT`), reads until it closes; raises the errors of `http`."""

    def hand(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Sends one request to the hand; its refusals raise FailedError or ChangedError, a lost answer UnknownError."""

    def wait(self, seconds: float) -> None:
        """Sleeps, for actions that proceed slowly."""

    def token(self, file: str | None) -> str:
        """Reads the credential for PUT /pace from the given file, else from the state folder; FailedError."""


Reach = ActionContext
"""The old name, which third-party actions import."""


class Http(NamedTuple):
    """The answer to an HTTP request."""

    status: int
    body: str


class Action(Protocol):
    """An action as the agent calls it: complete, with the default of each name that its module leaves out."""

    Config: type
    TARGET: tuple[str, ...]
    VERBS: tuple[str, ...]
    NEEDS: str
    NAMED: bool
    REVERSIBLE: bool
    TTL: float | None
    LASTING: bool
    HOLDS_DUTY: bool

    def describe(self, task: Task) -> str: ...
    def resource(self, task: Task) -> str: ...
    def strength(self, task: Task) -> float: ...
    def faults(self, task: Task) -> Iterable[str]: ...
    def control_settings(self, task: Task) -> ControlSettings | None: ...
    def sandbox_addresses(self, task: Task) -> Iterable[str]: ...
    def plan(self, task: Task, context: ActionContext) -> Plan: ...
    def do(self, task: Task, plan: Plan, context: ActionContext) -> Any: ...
    def undo(self, task: Task, plan: Plan, context: ActionContext) -> None: ...
    def steer(self, task: Task, memory: Any, moment: Moment) -> tuple[Any, Any]: ...
