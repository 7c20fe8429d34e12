"""
Decodes the payloads of Alertmanager's webhook, one alert at a time: an odd alert costs none of its group.

Everything in a payload is text that anybody may have written.
https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import msgspec

from agent.alerting.inbox_row import MAX_POSTED_VALUE, RESERVED_PREFIX, PostedAlert
from agent.web.query_params import parse_time

VERSION = "4"
MAX_LABELS = 64

_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,128}")
_FNV_OFFSET, _FNV_PRIME, _SEPARATOR = 0xCBF29CE484222325, 0x100000001B3, b"\xff"


class PayloadAlert(msgspec.Struct):
    """One alert of a payload; the fields in use."""

    status: Literal["firing", "resolved"]
    labels: Annotated[dict[str, str], msgspec.Meta(min_length=1)]
    startsAt: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT")]  # noqa: N815  Alertmanager's own spelling
    fingerprint: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{0,64}\Z")] = ""
    """Empty before Alertmanager 0.19."""
    endsAt: str = ""  # noqa: N815  as above
    generatorURL: str = ""  # noqa: N815  as above


class Payload(NamedTuple):
    """The alerts of a webhook's payload that can be used, and why the others cannot."""

    sender: str
    """The Alertmanager and the group: an Alertmanager posts the states of one group in order."""
    alerts: list[PayloadAlert]
    faults: list[str]


class _PayloadEnvelope(msgspec.Struct):
    version: str
    alerts: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=5000)]
    receiver: str = ""
    groupKey: str = ""  # noqa: N815  Alertmanager's own spelling
    externalURL: str = ""  # noqa: N815  as above


def decode_payload(body: bytes, peer: str) -> Payload:
    """Decodes a body that came from `peer`; raises ValueError where it is no payload, or has no alert of use."""
    try:
        envelope = msgspec.json.decode(body, type=_PayloadEnvelope)
        if envelope.version != VERSION:
            raise ValueError(f'expected version "{VERSION}" of the payload, found {envelope.version[:20]!r}')
        payload = Payload("\n".join((peer, envelope.externalURL, envelope.receiver, envelope.groupKey)), [], [])
        for raw in envelope.alerts:
            _decode_alert(raw, payload)
    except msgspec.MsgspecError as error:
        raise ValueError(f"expected a webhook payload of Alertmanager: {error}") from error
    except RecursionError as error:
        raise ValueError("expected a webhook payload of Alertmanager: nested too deep") from error
    if payload.faults and not payload.alerts:
        raise ValueError(f"expected a webhook payload of Alertmanager: {payload.faults[0]}")
    return payload


def _decode_alert(raw: msgspec.Raw, payload: Payload) -> None:
    try:
        payload.alerts.append(msgspec.json.decode(raw, type=PayloadAlert))
    except msgspec.MsgspecError as error:
        payload.faults.append(f"{error}, alert {len(payload.alerts) + len(payload.faults) + 1} of the group")


def to_posted_alert(alert: PayloadAlert, sender: str) -> PostedAlert:
    """Returns the alert; raises ValueError for too many or invalid labels, or an invalid date."""
    if len(alert.labels) > MAX_LABELS:
        raise ValueError(f"an alert has {len(alert.labels)} labels, and {MAX_LABELS} are allowed")
    for name, value in alert.labels.items():
        _check_label(name, value)
    starts_ms = parse_time(alert.startsAt)  # Go has a year 0
    # Reserved names are ours: an alert from outside must not choose its source.
    labels = {name: value for name, value in alert.labels.items() if not name.startswith(RESERVED_PREFIX)}
    fingerprint = alert.fingerprint.lower() or compute_fingerprint(alert.labels)
    is_firing = alert.status == "firing"
    ends_ms = None if is_firing else _parse_end(alert.endsAt)
    return PostedAlert(fingerprint, starts_ms, is_firing, tuple(sorted(labels.items())), sender, ends_ms)


def compute_fingerprint(labels: Mapping[str, str]) -> str:
    """
    Computes Alertmanager's fingerprint: FNV-1a of 64 bits over the sorted labels.

    https://github.com/prometheus/common/blob/main/model/signature.go
    """
    content = b"".join(
        name.encode() + _SEPARATOR + value.encode() + _SEPARATOR
        for name, value in sorted(labels.items(), key=lambda pair: pair[0].encode())
    )
    value = _FNV_OFFSET
    for byte in content:
        value = (value ^ byte) * _FNV_PRIME & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def _parse_end(text: str) -> int | None:
    try:
        return parse_time(text)
    except ValueError:
        return None  # other senders than Alertmanager leave it out


def _check_label(name: str, value: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"a label's name has 1 to 128 characters without control characters, found {name[:20]!r}")
    if len(value) > MAX_POSTED_VALUE:
        raise ValueError(f"label {name!r} has {len(value)} characters, and {MAX_POSTED_VALUE} are allowed")
