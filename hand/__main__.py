"""
`python -m hand`: listens on a Unix socket and carries out the agent's requests until SIGTERM, then restores everything.

systemd starts it with a socket; a person can start it with --socket. --direct is for an agent that runs as root itself.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hand import config as settings
from hand.errors import HandError
from hand.files import KernelFiles
from hand.leases import LeaseStore
from hand.server import HandServer, create_listener, inherit_listener
from hand.service import Service
from hand.verb import VerbContext

CONFIG_PATH = Path("/etc/steadytok/hand.toml")
SOCKET_PATH = Path("/run/steadytok/hand.sock")
STATE_FOLDER = Path("/run/steadytok-hand")


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 after SIGTERM or SIGINT, and 2 with one sentence on standard error when the hand cannot start."""
    options = _build_parser().parse_args(arguments)
    try:
        config = _load_config(options)
        if options.check:
            return _report_config(config)
        service, server = _build_service(options, config)
    except (settings.HandConfigError, HandError) as error:
        return _report_failure(str(error))
    except OSError as error:
        return _report_failure(f"{error.filename or 'the socket'}: {error.strerror}")
    return _serve(service, server, options)


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
    _log(f"the configuration is valid; units: {units}; commands: {commands}")
    return 0


def _build_service(options: argparse.Namespace, config: settings.HandConfig) -> tuple[Service, HandServer]:
    state_folder = options.state or Path(os.environ.get("RUNTIME_DIRECTORY", STATE_FOLDER))
    state_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = KernelFiles(options.root)
    leases = LeaseStore(state_folder, files.read("proc/sys/kernel/random/boot_id"))
    service = Service(VerbContext(files, config, leases), _log)
    service.resume_leases()
    return service, HandServer(inherit_listener() or create_listener(options.socket), config, service, _log)


def _serve(service: Service, server: HandServer, options: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, _exit_on_signal)
    signal.signal(signal.SIGINT, _exit_on_signal)
    threading.Thread(target=service.watch_leases, daemon=True).start()
    threading.Thread(target=server.serve, daemon=True).start()
    if options.until_stdin_closes:
        threading.Thread(target=_terminate_on_stdin_eof, daemon=True).start()
    _log("ready")
    try:
        threading.Event().wait()
    finally:
        service.close()
        server.close()
        service.restore_all()
    return 0


def _exit_on_signal(signal_number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not interrupt the restore
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise SystemExit(0)


def _terminate_on_stdin_eof() -> None:
    while os.read(sys.stdin.fileno(), 1 << 12):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _report_failure(message: str) -> int:
    _log(f"cannot start: {message}")
    return 2


def _log(message: str) -> None:
    print(f"hand: {message}", file=sys.stderr, flush=True)  # noqa: T201  standard error goes to the systemd journal


if __name__ == "__main__":
    sys.exit(main())
