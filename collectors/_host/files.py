"""What Host reads with: a whole file, or the body of an HTTP GET, each no larger than it has a reason to be."""

from __future__ import annotations

import os
import urllib.parse
import urllib.request

LARGEST = 4 << 20  # bytes; /proc/vmstat is 4 KiB and an exposition of 5,000 series 400 KiB
PAGE = 4096  # bytes; what is shorter than this from one read of a file in /sys is the whole file
CHUNK = 1 << 16  # bytes asked of one read(2): a sysfs attribute is at most one page


def read_all(path: str, whole_below: int, largest: int = LARGEST) -> bytes:
    """The file's bytes; one read that gives fewer than `whole_below` is taken for all of it. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts, size = [], 0
        # seq_files in /proc may answer with less than was asked before their end, so only an empty read ends it.
        while part := os.read(descriptor, CHUNK):
            parts.append(part)
            size += len(part)
            if size < whole_below:
                return part
            if size > largest:
                raise OSError(0, f"larger than {largest >> 20} MiB")
    finally:
        os.close(descriptor)
    return b"".join(parts)


def http_get(url: str, timeout: float) -> str:
    """The text that the URL answers with; raises OSError, ValueError or HTTPException where there is none."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("expected an http:// or https:// URL")
    # No proxy: an engine is on this host or this rack, and http_proxy of a login shell must not reroute it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=timeout) as answer:
        body: bytes = answer.read(LARGEST + 1)
    if len(body) > LARGEST:
        raise ValueError(f"larger than {LARGEST >> 20} MiB")
    return body.decode("utf-8")
