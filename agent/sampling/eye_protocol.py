"""
What an agent and its eye write to each other: one JSON object a line, checked on both sides.

The eye may read what the agent may not, and reads what a BMC, a kernel log and other users' processes say. So neither
trusts the other: the eye carries out nothing but a pass of a collector, and the agent takes from an eye nothing but
bounded samples of the collector that it asked for.
"""

from __future__ import annotations

import importlib.util
from typing import Annotated, Any, Literal

import msgspec

from agent.sampling.passes import SERIES_CAP, CollectionResult
from agent.sampling.plugins import Collector
from collectors import Metric, Note, Sample

MAX_REQUEST_BYTES = 1 << 20  # bytes: engines and patterns of an operator's configuration
MAX_RESPONSE_BYTES = 16 << 20  # bytes, as of a line of any child process
MAX_COMMAS = 1_000_000  # in a response: it bounds the objects that decoding makes, before it makes them
MAX_METRICS = 4096
MAX_LABELS = 64  # of one series
MAX_NOTES = 20_000
MAX_NAME = 256  # characters of a metric or label
MAX_TEXT = 8192  # characters of a label's value, a note or an error
RESERVED_PREFIX = "steadytok_"

ShortName = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
LongText = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
LabelPairs = Annotated[tuple[tuple[ShortName, LongText], ...], msgspec.Meta(max_length=MAX_LABELS)]
Value = float | Literal["nan", "inf", "-inf"]


class CollectRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request for one pass; `own` holds the collector's keys of the configuration."""

    collect: ShortName
    own: dict[str, Any] | None = None


class CollectResponse(msgspec.Struct, frozen=True):
    """
    A CollectionResult in transit: metrics once, samples as (index of metric, labels, value).

    An eye that has started sends one without a collector's name, which every agent so far passes over.
    """

    collector: Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
    seconds: Seconds
    cpu_seconds: Seconds
    metrics: Annotated[tuple[tuple[ShortName, str, LongText], ...], msgspec.Meta(max_length=MAX_METRICS)]
    samples: Annotated[tuple[tuple[int, LabelPairs, Value], ...], msgspec.Meta(max_length=SERIES_CAP)]
    notes: Annotated[tuple[tuple[LongText, LongText], ...], msgspec.Meta(max_length=MAX_NOTES)]
    error: LongText | None = None
    again: Seconds | None = None


class _Envelope(msgspec.Struct):
    collector: str


READY = CollectResponse("", 0.0, 0.0, (), (), ())
_decoder = msgspec.json.Decoder(CollectResponse)
_request_decoder = msgspec.json.Decoder(CollectRequest)


class ProtocolError(Exception):
    """A line that the other side must not send; the message is one sentence."""


def decode_request(line: bytes) -> CollectRequest:
    """Decodes a request; raises ProtocolError."""
    if len(line) > MAX_REQUEST_BYTES:
        raise ProtocolError(f"a request has more than {MAX_REQUEST_BYTES} bytes")
    try:
        return _request_decoder.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f'expected {{"collect": NAME, "own": {{…}}}}: {error}') from None


def encode_result(result: CollectionResult) -> CollectResponse:
    """Encodes a result for the pipe; NaN and the infinities, which JSON lacks, become text."""
    metric_indexes: dict[Metric, int] = {}
    samples = tuple(
        (
            metric_indexes.setdefault(s.metric, len(metric_indexes)),
            s.labels,
            s.value if abs(s.value) < float("inf") else str(s.value),
        )
        for s in result.samples
    )
    return CollectResponse(
        result.collector,
        result.seconds,
        result.cpu_seconds,
        tuple((metric.name, metric.kind, metric.help) for metric in metric_indexes),
        samples,  # type: ignore[arg-type]  # str() of NaN and the infinities gives the three texts of Value
        notes=tuple((note.path[:MAX_TEXT], note.reason[:MAX_TEXT]) for note in result.notes[:MAX_NOTES]),
        error=None if result.error is None else result.error[:MAX_TEXT],
        again=result.again,
    )


def check_size(line: bytes) -> None:
    """Raises ProtocolError for a response that would take much memory to decode."""
    if len(line) > MAX_RESPONSE_BYTES or line.count(b",") > MAX_COMMAS:
        bounds = f"{MAX_RESPONSE_BYTES} bytes or {MAX_COMMAS} commas"
        raise ProtocolError(f"a response of {len(line)} bytes has more than {bounds}")


def find_collector_name(line: bytes) -> str:
    """Returns the collector that a response names which cannot be used; empty where it names none."""
    try:
        return msgspec.json.decode(line, type=_Envelope).collector
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""


def decode_response(line: bytes) -> CollectResponse:
    """Decodes a response, whose samples are not checked yet; raises ProtocolError."""
    check_size(line)
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(str(error)) from None


def decode_result(response: CollectResponse, collector: Collector, began: float) -> CollectionResult:
    """
    Returns the result of a pass that the agent requested at `began`; raises ProtocolError for another's samples.

    Type and help of a metric are those that the agent knows, where it knows them.
    """
    metrics = _resolve_metrics(response, collector)
    label_names = {name for _, labels, _ in response.samples for name, _ in labels}
    if reserved := sorted(name for name in label_names if name.startswith("__")):
        raise ProtocolError(f"it sent the label {reserved[0]!a}, which is reserved")
    if not all(0 <= index < len(metrics) for index, _, _ in response.samples):
        raise ProtocolError("it sent a sample without a metric")
    return CollectionResult(
        response.collector,
        began,
        response.seconds,
        response.cpu_seconds,
        tuple(Sample(metrics[index], labels, float(value)) for index, labels, value in response.samples),
        tuple(Note(*note) for note in response.notes),
        error=response.error,
        again=response.again,
    )


def _resolve_metrics(response: CollectResponse, collector: Collector) -> list[Metric]:
    declared = {metric.name: metric for metric in collector.metrics}
    metrics = []
    for name, kind, help_text in response.metrics:
        metric = declared.get(name)
        if metric is None:
            if name.startswith(RESERVED_PREFIX) or not _may_have_other_metrics(collector):
                raise ProtocolError(f"it sent {name!a}, which is no metric of {collector.name}")
            metric = Metric(name, "counter" if kind == "counter" else "gauge", help_text)
        metrics.append(metric)
    return metrics


def _may_have_other_metrics(collector: Collector) -> bool:
    """True for a third party's, some of whose names are known only when it reads; ours declare every metric."""
    return importlib.util.find_spec(f"collectors.{collector.name}") is None
