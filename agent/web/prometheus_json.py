"""
Encodes answers as Prometheus' JSON, byte for byte as its own encoder writes numbers, times and values.

https://prometheus.io/docs/prometheus/latest/querying/api/#format-overview and web/api/v1/json_codec.go
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import msgspec

from collectors import Labels
from rules.numbers import format_float
from rules.promql import Matrix, PromqlError

MAX_SAMPLES = 300_000  # about 30 bytes each, and several copies until the answer is sent
MAX_CHARACTERS = 16 << 20
"""Characters of an answer: labels count too, which many series may share in memory but not in JSON."""


def format_value(number: float) -> str:
    """Formats a sample value as Prometheus' JSON has it: with an exponent only below 1e-6 and from 1e21 on."""
    return format_float(number, -6, 21)


def format_seconds(ms: int) -> str:
    """Formats milliseconds as seconds, with three decimals unless they are zero."""
    integer, fraction = divmod(abs(ms), 1000)
    sign = "-" if ms < 0 else ""
    return f"{sign}{integer}.{fraction:03}" if fraction else f"{sign}{integer}"


def encode_success(data: str | bytes, warnings: Sequence[str] = ()) -> bytes:
    """Wraps `data`, which is already JSON, into an answer."""
    warnings_json = b',"warnings":' + msgspec.json.encode(warnings) if warnings else b""
    return b'{"status":"success","data":' + (data.encode() if isinstance(data, str) else data) + warnings_json + b"}"


def encode_data(data: Any, warnings: Sequence[str] = ()) -> bytes:
    """Encodes `data` and wraps it into an answer."""
    return encode_success(msgspec.json.encode(data), warnings)


def encode_failure(kind: str, message: str) -> bytes:
    """Encodes an error; `kind` is bad_data, execution, timeout, internal and so on."""
    return msgspec.json.encode({"status": "error", "errorType": kind, "error": message})


def encode_vector(series: Sequence[tuple[Labels, float]], at_ms: int) -> str:
    """Encodes an instant vector."""
    check_size(len(series))
    at = format_seconds(at_ms)
    return _encode_result(
        "vector",
        (f'{{"metric":{_encode_metric(labels)},"value":[{at},"{format_value(number)}"]}}' for labels, number in series),
    )


def encode_scalar(number: float, at_ms: int) -> str:
    """Encodes a scalar."""
    return f'{{"resultType":"scalar","result":[{format_seconds(at_ms)},"{format_value(number)}"]}}'


def encode_string(text: str, at_ms: int) -> str:
    """Encodes a string."""
    return f'{{"resultType":"string","result":[{format_seconds(at_ms)},{msgspec.json.encode(text).decode()}]}}'


def encode_matrix(result: Matrix, rows: Sequence[int]) -> str:
    """Encodes the given rows of a range query's result."""
    check_size(int(result.present[list(rows)].sum()))
    times = _format_times(result.times.tolist())
    return _encode_result("matrix", (_encode_row(result, row, times) for row in rows))


def _encode_row(result: Matrix, row: int, times: list[str]) -> str:
    present = result.present[row]
    numbers = result.values[row][present].tolist()
    if len(numbers) < len(times):
        times = [times[step] for step in present.nonzero()[0].tolist()]
    return _encode_series(result.labels[row], times, numbers)


def encode_samples(series: Sequence[tuple[Labels, Any, Any]]) -> str:
    """Encodes a range vector: label sets with arrays of times (ms) and values."""
    check_size(sum(len(times) for _, times, _ in series))
    return _encode_result(
        "matrix",
        (_encode_series(labels, _format_times(times.tolist()), values.tolist()) for labels, times, values in series),
    )


def _format_times(times: list[int]) -> list[str]:
    return [f'[{format_seconds(at)},"' for at in times]


def _encode_series(labels: Labels, times: list[str], numbers: list[float]) -> str:
    texts = map(repr, numbers)
    # No function call for plain values: these loops take most of a range query's time.
    values = [
        text[:-2] if text[-2:] == ".0" else format_value(number) if "e" in text or "n" in text else text
        for text, number in zip(texts, numbers, strict=True)
    ]
    pairs = '"],'.join([at + text for at, text in zip(times, values, strict=True)])
    return f'{{"metric":{_encode_metric(labels)},"values":[{pairs}"]]}}'


def check_size(number: int) -> None:
    """Raises PromqlError if an answer would have too many samples, before anything is done with each."""
    if number > MAX_SAMPLES:
        reason = f"the answer has {number:,} samples, more than {MAX_SAMPLES:,}"
        raise PromqlError(f"{reason}; ask for fewer series, a shorter time or a longer step")


def _encode_metric(labels: Labels) -> str:
    if sum(len(value) for _, value in labels) > MAX_CHARACTERS // 6:  # of which JSON may escape each to six
        _refuse_length()
    return msgspec.json.encode(dict(labels)).decode()


def _encode_result(kind: str, parts: Iterable[str]) -> str:
    """Joins the parts of a result, unless they are too long together; the parts are made one by one."""
    pieces, length = [], 0
    for part in parts:
        length += len(part)
        if length > MAX_CHARACTERS:
            _refuse_length()
        pieces.append(part)
    return f'{{"resultType":"{kind}","result":[{",".join(pieces)}]}}'


def _refuse_length() -> NoReturn:
    raise PromqlError(
        f"the answer has more than {MAX_CHARACTERS:,} characters; ask for fewer series, or for shorter labels"
    )
