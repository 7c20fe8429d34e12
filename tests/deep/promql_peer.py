"""
A real Prometheus on loopback that holds given samples, and its answers.

The samples reach it by remote write, which unlike a text exposition can carry staleness marks.
https://prometheus.io/docs/specs/prw/remote_write_spec/
"""

from __future__ import annotations

import contextlib
import http.client
import json
import struct
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from collectors import Labels
from tests import processes

Stream = list[tuple[int, float | None]]
"""Times in ms and values of one series; None is a staleness mark."""

Instant = dict[Labels, float]
Range = dict[Labels, dict[int, float]]

_STALE = struct.pack("<Q", 0x7FF0000000000002)


@contextlib.contextmanager
def prometheus(folder: Path, streams: Mapping[Labels, Stream]) -> Iterator[Peer]:
    """A Prometheus with these series (labels with `__name__`); subqueries without a step take 15 s."""
    program = processes.require_program("prometheus")
    (folder / "prometheus.yml").write_text("global: {evaluation_interval: 15s}\n")
    address = f"127.0.0.1:{processes.find_free_port()}"
    options = [
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
        "--storage.tsdb.retention.time=100y",
        "--web.enable-remote-write-receiver",
    ]
    with processes.run_process([program, *options], folder / "log"):
        processes.wait_until(
            lambda: processes.fetch(f"http://{address}/-/ready") is not None, 20, "Prometheus gets ready"
        )
        peer = Peer(address)
        peer.write(streams)
        yield peer
        peer.close()


class Peer:
    """One connection to a Prometheus."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=20)

    def close(self) -> None:
        self._connection.close()

    def write(self, streams: Mapping[Labels, Stream]) -> None:
        """Stores samples, all or none."""
        request = b"".join(_field(1, _time_series(labels, stream)) for labels, stream in streams.items())
        headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
        refused = self._post("write", _snappy(request), headers)
        assert not refused, refused

    def instant(self, text: str, at_s: int) -> Instant | str:
        """The values of an instant query in the order they come, a scalar's without labels; or why there are none."""
        answer = self._ask("query", query=text, time=at_s)
        if isinstance(answer, str):
            return answer
        if answer["resultType"] == "scalar":
            return {(): float(answer["result"][1])}
        if answer["resultType"] != "vector":
            return f"a {answer['resultType']} is no result of a rule"
        return {tuple(sorted(each["metric"].items())): float(each["value"][1]) for each in answer["result"]}

    def over(self, text: str, start_s: int, end_s: int, step_s: int) -> Range | str:
        """The values of a range query by series and second; or why there are none."""
        answer = self._ask("query_range", query=text, start=start_s, end=end_s, step=step_s)
        if isinstance(answer, str):
            return answer
        return {
            tuple(sorted(series["metric"].items())): {int(at): float(value) for at, value in series["values"]}
            for series in answer["result"]
        }

    def _ask(self, path: str, **parameters: object) -> dict[str, Any] | str:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = json.loads(self._post(path, urllib.parse.urlencode(parameters).encode(), headers))
        result: dict[str, Any] | str = answer["data"] if answer["status"] == "success" else answer["error"]
        return result

    def _post(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        self._connection.request("POST", f"/api/v1/{path}", body, dict(headers))
        return self._connection.getresponse().read()


def _time_series(labels: Labels, stream: Stream) -> bytes:
    encoded = [_field(1, _field(1, name.encode()) + _field(2, value.encode())) for name, value in sorted(labels)]
    for at_ms, value in stream:
        bits = _STALE if value is None else struct.pack("<d", value)
        encoded.append(_field(2, b"\x09" + bits + b"\x10" + _varint(at_ms)))
    return b"".join(encoded)


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def _snappy(raw: bytes) -> bytes:
    """Snappy's block format with literals only, which every decoder takes."""
    parts = [_varint(len(raw))]
    for start in range(0, len(raw), 1 << 16):
        piece = raw[start : start + (1 << 16)]
        parts.append(bytes([61 << 2]) + struct.pack("<H", len(piece) - 1) + piece)
    return b"".join(parts)
