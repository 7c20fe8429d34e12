"""
`python -m hand`: listens on a Unix socket and carries out the agent's requests until SIGTERM, SIGINT, SIGHUP or
SIGQUIT, then lets nothing more in, restores everything, and ends.

systemd starts it with a socket; a person can start it with --socket. --direct is for an agent that runs as root itself.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from hand import config as settings
from hand import possession
from hand.errors import HandError
from hand.files import KernelFiles
from hand.leases import LeaseStore
from hand.log_writer import LogWriter
from hand.server import HandServer, inherit_listener
from hand.service import Log, Service
from hand.stop_requests import STOP_SIGNALS, StopRequests
from hand.verb import VerbContext

CONFIG_PATH = Path("/etc/steadytok/hand.toml")
SOCKET_PATH = Path("/run/steadytok/hand.sock")
STATE_FOLDER = Path("/run/steadytok-hand")
STDIN_CLOSED = "standard input was closed"
PLANNED_STOPS = frozenset({STDIN_CLOSED, *(number.name for number in STOP_SIGNALS)})
LOG_TIMEOUT = 1.0  # seconds in which the last lines of the log are written
ANSWER_TIMEOUT = 1.0  # seconds in which callers get the answers to requests that were under way


def main(arguments: list[str] | None = None) -> int:
    """
    Returns 0 after a planned stop that restored everything, 1 after another end, and 2 when the hand cannot start.
    """
    options = _build_parser().parse_args(arguments)
    stop_requests = StopRequests()  # before a lease is resumed, since a unit may be frozen from then on
    try:
        config = _load_config(options)
        if options.check:
            return _report_config(config)
        log = LogWriter()
        service, server = _build_service(options, config, log.write)
    except (settings.HandConfigError, HandError) as error:
        return _report_failure(str(error))
    except OSError as error:
        return _report_failure(f"{error.filename or 'the socket'}: {error.strerror or error}")
    status = _serve(service, server, options, stop_requests, log.write)
    log.close(LOG_TIMEOUT)
    return status


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hand", description="Carries out fixed verbs for the agent; see hand.toml.")
    parser.add_argument(
        "--config", type=Path, default=CONFIG_PATH, help="file with what root allows (default %(default)s)"
    )
    parser.add_argument(
        "--socket", type=Path, default=SOCKET_PATH, help="path to listen on, unless systemd passes a socket"
    )
    parser.add_argument("--state", type=Path, default=None, help=f"folder of the leases (default {STATE_FOLDER})")
    parser.add_argument("--root", type=Path, default=Path("/"), help="root of the host's file system (default /)")
    parser.add_argument("--direct", action="store_true", help="accept every process of this user, in any cgroup")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when standard input closes")
    parser.add_argument("--check", action="store_true", help="check the configuration and exit")
    return parser


def _load_config(options: argparse.Namespace) -> settings.HandConfig:
    if not options.direct:
        config = settings.load_config(options.config)
        if not config.uids:
            raise settings.HandConfigError(
                f"{options.config}: no user may use this hand: this host has no user {settings.AGENT_USER}; "
                "name one in peer.user"
            )
        return config
    own_uids = frozenset({os.geteuid()})
    file_config = (
        settings.load_config(options.config, trusted_owners=own_uids | {0})
        if options.config.exists()
        else settings.HandConfig()
    )
    return settings.HandConfig(own_uids, None, file_config.units, file_config.commands)


def _report_config(config: settings.HandConfig) -> int:
    units, commands = ", ".join(sorted(config.units)) or "none", ", ".join(sorted(config.commands)) or "none"
    print(f"hand: the configuration is valid; units: {units}; commands: {commands}", file=sys.stderr)  # noqa: T201  as below
    return 0


def _build_service(options: argparse.Namespace, config: settings.HandConfig, log: Log) -> tuple[Service, HandServer]:
    """Takes the state and the socket, both before anything is restored: another hand may hold the leases."""
    state_folder = options.state or Path(os.environ.get("RUNTIME_DIRECTORY", STATE_FOLDER))
    possession.take_state_folder(state_folder)
    listener = inherit_listener() or possession.create_listener(options.socket)
    files = KernelFiles(options.root)
    leases = LeaseStore(state_folder, files.read("proc/sys/kernel/random/boot_id"))
    service = Service(VerbContext(files, config, leases), log)
    service.resume_leases()
    return service, HandServer(listener, config, service, log)


def _serve(
    service: Service, server: HandServer, options: argparse.Namespace, stop_requests: StopRequests, log: Log
) -> int:
    """Serves until a request to stop; then lets nothing more in, restores everything, and answers who still waits."""

    def start(function: Callable[[], None]) -> None:
        threading.Thread(target=_run_or_stop, args=(function, stop_requests), daemon=True).start()

    for function in (service.watch_leases, server.serve):
        start(function)
    if options.until_stdin_closes:
        start(_wait_for_stdin_eof)
    log("ready")
    reason = stop_requests.wait()
    log(f"ending: {reason}")
    server.close()
    is_restored = service.end()
    server.wait_until_answered(ANSWER_TIMEOUT)
    return 0 if is_restored and reason in PLANNED_STOPS else 1


def _run_or_stop(function: Callable[[], None], stop_requests: StopRequests) -> None:
    """Runs a thread's function; when it fails or returns, the hand ends in order: it must not live on without it."""
    try:
        function()
        stop_requests.add(STDIN_CLOSED)
    except Exception as error:
        stop_requests.add(f"internal error of the hand: {type(error).__name__}: {error}")


def _wait_for_stdin_eof() -> None:
    while os.read(sys.stdin.fileno(), 1 << 12):
        pass


def _report_failure(message: str) -> int:
    print(f"hand: cannot start: {message}", file=sys.stderr)  # noqa: T201  it goes to the journal or the terminal
    return 2


if __name__ == "__main__":
    sys.exit(main())
