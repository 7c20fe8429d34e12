"""
Computes the sandbox lines of the units that depend on this host: executable paths and reachable addresses.

The venv that is being installed runs `python -m agent.install.sandbox CONFIG`, because its interpreter, its libraries
and its reading of the configuration count. It prints SandboxLines as JSON.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import msgspec

from agent.alerting import alertmanagers
from agent.config.schema import AgentConfig
from agent.install.layout import OPT
from agent.remediation import catalog

LOCALHOST = "localhost"


class SandboxLines(msgspec.Struct, frozen=True):
    """Paths for ExecPaths= and NoExecPaths=, network lines for the two units, and notes for the operator."""

    execute: tuple[str, ...]
    excluded: tuple[str, ...]
    agent: tuple[str, ...]
    eye: tuple[str, ...]
    notes: tuple[str, ...] = ()


def find_executable_paths(maps: str, interpreter: str) -> list[str]:
    """
    Returns the interpreter and the folders of all files that /proc/PID/maps shows as executable.

    Folders rather than files, so that an upgraded library needs no new line. All paths below /opt/steadytok count as
    that folder.
    """
    paths = {OPT, interpreter}
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and "x" in fields[1] and fields[5].startswith("/"):
            path = fields[5].removesuffix(" (deleted)")
            paths.add(path if path == interpreter else os.path.dirname(path))
    nested = {path for path in paths if any(path.startswith(f"{other}/") for other in paths if other != interpreter)}
    return sorted(path for path in paths - nested if f"{OPT}/" not in path)


def find_program_folders(folders: Iterable[str]) -> list[str]:
    """Returns the folders below the library folders that hold programs, none of which the service executes."""
    tops = {folder for folder in folders if folder != OPT and os.path.isdir(folder)}
    program_folders = set()
    for top in tops:
        for folder, folders_below, names in os.walk(top):
            folders_below[:] = [name for name in folders_below if f"{folder}/{name}" not in tops]
            if folder != top and any(_is_program(f"{folder}/{name}") for name in names):
                program_folders.add(folder)
                folders_below.clear()  # its subfolders are excluded with it
    return sorted(program_folders)


def _is_program(path: str) -> bool:
    return ".so" not in os.path.basename(path) and os.path.isfile(path) and os.access(path, os.X_OK)


def read_process_maps() -> str:
    """Returns the maps of this process after it has loaded every library that agent and eye may load."""
    import agent.app
    import agent.sampling.eye  # noqa: F401  for its libraries
    from agent.sampling import hotplug, plugins

    plugins.load_collectors()
    hotplug.load_pyudev()
    return Path("/proc/self/maps").read_text(encoding="utf-8")


def list_outgoing_urls(config: AgentConfig) -> Iterator[str]:
    """Yields the URLs that the agent connects to; Alertmanagers in files are those of this moment."""
    yield from (manager.url for manager in alertmanagers.list_targets(config.alerting))
    yield from (engine.url for engine in config.engines)
    for remedy in catalog.bind_remedies(config, "configuration"):
        yield from (f"//{address}" for address in remedy.action.sandbox_addresses(remedy.task))


def list_collector_urls(config: AgentConfig, modules: Mapping[str, ModuleType], *, in_eye: bool) -> Iterator[str]:
    """Yields the addresses that the collectors in the eye, or those in the agent, connect to."""
    for name, module in modules.items():
        runs_in_eye = getattr(module, "ISOLATED", False) or getattr(module, "PRIVILEGED", False)
        if hasattr(module, "sandbox_addresses") and runs_in_eye == in_eye:
            settings = config.collectors.get(name)
            collector_config = None if settings is None else settings.config
            yield from (f"//{address}" for address in module.sandbox_addresses(collector_config or module.Config()))


def allow_addresses(urls: Iterable[str]) -> tuple[list[str], list[str]]:
    """Returns IPAddressAllow= lines for these URLs, with names resolved now, and a note for each unknown name."""
    lines: dict[str, None] = {}
    notes: list[str] = []
    has_names = False
    for host in dict.fromkeys(filter(None, (urlsplit(url).hostname for url in urls))):
        addresses = _resolve_addresses(host)
        has_names = has_names or addresses != [host]
        if not addresses:
            notes.append(f"{host} has no address now, so the service cannot reach it: fix its name and install again")
        elif not all(ipaddress.ip_address(address).is_loopback for address in addresses):
            lines |= dict.fromkeys([f"# {host}"] if addresses != [host] else [])
            lines |= dict.fromkeys(f"IPAddressAllow={address}" for address in addresses)
    if has_names and lines:  # names are resolved again later, which needs the nameservers
        lines |= dict.fromkeys(f"IPAddressAllow={server}" for server in _read_nameservers())
    return list(lines), notes


def _resolve_addresses(host: str) -> list[str]:
    try:
        results = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return sorted({str(address[0]).partition("%")[0] for *_, address in results})


def _read_nameservers(file: Path = Path("/etc/resolv.conf")) -> Iterator[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return  # no resolver: names come from /etc/hosts
    for words in map(str.split, lines):
        if len(words) > 1 and words[0] == "nameserver" and not ipaddress.ip_address(words[1]).is_loopback:
            yield words[1]


def compute_sandbox(
    config: AgentConfig, modules: Mapping[str, ModuleType], maps: str, interpreter: str
) -> SandboxLines:
    """Computes all lines for one configuration on this host."""
    agent_urls = [*list_outgoing_urls(config), *list_collector_urls(config, modules, in_eye=False)]
    agent_lines, notes = allow_addresses(agent_urls)
    eye_lines, eye_notes = allow_addresses(list_collector_urls(config, modules, in_eye=True))
    if eye_lines:
        eye_lines.insert(0, "RestrictAddressFamilies=AF_INET AF_INET6")
    listen_host = config.web.listen.rpartition(":")[0].strip("[]")
    if listen_host not in (LOCALHOST, "127.0.0.1", "::1"):
        notes.append(
            f"web.listen is {config.web.listen}, but only this host may connect to the service: allow others with"
            " `systemctl edit steadytok`, such as  [Service] IPAddressAllow=10.0.0.0/8"
        )
    if any(manager.file_sd_configs for manager in config.alerting.alertmanagers):
        notes.append("only the present Alertmanagers of file_sd_configs can be reached: install again when they change")
    executable_paths = find_executable_paths(maps, interpreter)
    return SandboxLines(
        tuple(executable_paths),
        tuple(find_program_folders(executable_paths)),
        tuple(agent_lines),
        tuple(eye_lines),
        (*notes, *eye_notes),
    )


def main() -> int:
    """Prints the lines; returns 2 if the configuration cannot be used."""
    from agent import configuration
    from agent.config.loader import ConfigError
    from agent.text import log

    log.configure()  # logs go to stderr: a program reads stdout
    try:
        config, modules = configuration.load_configuration(Path(sys.argv[1]))
    except ConfigError as error:
        sys.stderr.write("\n".join(error.messages) + "\n")
        return 2
    sandbox = compute_sandbox(config, modules, read_process_maps(), os.path.realpath(sys.executable))
    sys.stdout.write(msgspec.json.encode(sandbox).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
