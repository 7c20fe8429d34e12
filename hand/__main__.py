"""
`python -m hand`: listens on a Unix socket and does what the agent asks, until SIGTERM; then puts everything back.

Started by systemd with a socket, or by hand with --socket; --direct is for an agent that runs as root itself.
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
from hand.files import Files
from hand.leases import Leases
from hand.server import Server, inherited, listening
from hand.service import Service
from hand.verb import Bench

CONFIG = Path("/etc/steadytok/hand.toml")
SOCKET = Path("/run/steadytok/hand.sock")
STATE = Path("/run/steadytok-hand")


def main(arguments: list[str] | None = None) -> int:
    """0 when told to end; 2 with one sentence where it cannot start."""
    options = _parser().parse_args(arguments)
    try:
        config = _config(options)
        if options.check:
            return _checked(config)
        service, server = _build(options, config)
    except (settings.ConfigError, HandError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename or 'the socket'}: {error.strerror}")
    return _serve(service, server, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hand", description="Carries out fixed verbs for the agent; see hand.toml.")
    parser.add_argument("--config", type=Path, default=CONFIG, help="what root allows (default %(default)s)")
    parser.add_argument("--socket", type=Path, default=SOCKET, help="where to listen, unless systemd listens already")
    parser.add_argument("--state", type=Path, default=None, help=f"folder of what is held (default {STATE})")
    parser.add_argument("--root", type=Path, default=Path("/"), help="the folder that is the machine (default /)")
    parser.add_argument("--direct", action="store_true", help="serve this user's own processes, of any cgroup")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when standard input closes")
    parser.add_argument("--check", action="store_true", help="say what is wrong with the configuration, and end")
    return parser


def _config(options: argparse.Namespace) -> settings.Config:
    if not options.direct:
        config = settings.load(options.config)
        if not config.uids:
            raise settings.ConfigError(
                f"{options.config}: nobody could use this hand: there is no user {settings.AGENT_USER}, and peer.user "
                "names no other"
            )
        return config
    own = frozenset({os.geteuid()})
    found = settings.load(options.config, trusted=own | {0}) if options.config.exists() else settings.Config()
    return settings.Config(own, None, found.units, found.commands)


def _checked(config: settings.Config) -> int:
    units, commands = ", ".join(sorted(config.units)) or "none", ", ".join(sorted(config.commands)) or "none"
    _say(f"the configuration is well; units: {units}; commands: {commands}")
    return 0


def _build(options: argparse.Namespace, config: settings.Config) -> tuple[Service, Server]:
    state = options.state or Path(os.environ.get("RUNTIME_DIRECTORY", STATE))
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = Files(options.root)
    leases = Leases(state, files.read("proc/sys/kernel/random/boot_id"))
    service = Service(Bench(files, config, leases), _say)
    service.take_up()
    return service, Server(inherited() or listening(options.socket), config, service, _say)


def _serve(service: Service, server: Server, options: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    threading.Thread(target=service.watch, daemon=True).start()
    threading.Thread(target=server.serve, daemon=True).start()
    if options.until_stdin_closes:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    _say("ready")
    try:
        threading.Event().wait()
    finally:
        service.stop()
        server.close()
        service.put_back_all()
    return 0


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the putting back
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise SystemExit(0)


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 1 << 12):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _fail(sentence: str) -> int:
    _say(f"cannot start: {sentence}")
    return 2


def _say(sentence: str) -> None:
    print(f"hand: {sentence}", file=sys.stderr, flush=True)  # noqa: T201  it is the journal's


if __name__ == "__main__":
    sys.exit(main())
