"""Reads the version of the running kernel."""

from __future__ import annotations

import re

from collectors._host.host import Host


def read_kernel_version(host: Host) -> tuple[int, int]:
    """Returns major and minor version; (0, 0) where they cannot be read."""
    match = re.match(r"(\d{1,3})\.(\d{1,3})", host.read("proc/sys/kernel/osrelease", optional=True) or "")
    return (int(match[1]), int(match[2])) if match else (0, 0)
