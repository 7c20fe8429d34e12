"""The folder of a NUMA node in sysfs."""

from __future__ import annotations

NODE_PATH = "sys/devices/system/node/node"
"""The folder below the machine's root, without the node's number."""
