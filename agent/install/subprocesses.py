"""Runs programs for the installer: systemd's, and pip; never a shell. No other file of it starts programs."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.install import InstallError

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TIMEOUT = 900.0  # seconds: pip over a slow line


def run_program(
    argv: Sequence[str | Path], *, environment: Mapping[str, str] | None = None, shows_output: bool = False
) -> str:
    """
    Returns the program's output, or with `shows_output` lets it through. Raises InstallError with its last lines.

    Without an `environment` the program inherits ours (proxies, PIP_INDEX_URL).
    """
    command = [str(part) for part in argv]
    program = shutil.which(command[0], path=_PATH) or command[0]
    output = None if shows_output else subprocess.PIPE
    try:
        result = subprocess.run(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
            errors="replace",
            env=environment,
            timeout=_TIMEOUT,
            check=False,
        )
    except FileNotFoundError as error:
        raise InstallError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"`{shlex.join(command)}` did not end within {_TIMEOUT:g} s") from error
    if result.returncode != 0:
        raise InstallError(_describe_failure(command, result.returncode, result.stdout, result.stderr))
    return result.stdout or ""


def _describe_failure(command: Sequence[str], status: int, out: str | None, err: str | None) -> str:
    message = (err or out or "").strip()
    hint = " (the disk is full: free some space and run it again)" if "No space left on device" in message else ""
    last = "\n".join(f"    {line}" for line in message.splitlines()[-6:])
    return f"`{shlex.join(command)}` ended with status {status}{hint}" + (f":\n{last}" if last else "")
