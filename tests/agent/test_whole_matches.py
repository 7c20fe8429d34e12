"""Identifiers are matched whole: in Python `$` also matches before a newline at the end, and `match` reads a prefix."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.web.webhook_payload import PayloadAlert
from tests.structure import HOUSE, list_modules

CHECKING_ROOMS = ("agent/web", "agent/alerting", "agent/config", "agent/remediation", "agent/actions", "hand")


@pytest.mark.parametrize("fingerprint", ["5ef7\n", "5ef7 ", "\n5ef7", "5ef7-", "5ef7\n5ef7", "٣", "a" * 65])
def test_a_fingerprint_is_matched_whole(fingerprint: str) -> None:
    """A fingerprint with a newline at its end would be another alert than the one without."""
    alert = {"status": "firing", "labels": {"a": "b"}, "startsAt": "2026-01-01T00:00:00Z", "fingerprint": fingerprint}
    with pytest.raises(msgspec.ValidationError, match="fingerprint"):
        msgspec.convert(alert, PayloadAlert)


def list_patterns(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Yields line and text of every regular expression, and whether it has flags."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        is_meta = name.endswith("Meta")
        texts = [keyword.value for keyword in node.keywords if is_meta and keyword.arg == "pattern"]
        if name in ("re.compile", "re.match", "re.search"):
            texts = node.args[:1]
        for text in texts:
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield node.lineno, text.value, "MULTILINE" in ast.unparse(node)


def test_no_check_of_an_identifier_ends_before_its_end() -> None:
    r"""What checks input from outside uses fullmatch, or \Z in a pattern of msgspec, which searches."""
    offenders = [
        f"{path.relative_to(HOUSE)}:{line} {pattern}"
        for room in CHECKING_ROOMS
        for path in list_modules(room)
        for line, pattern, is_multiline in list_patterns(path)
        if pattern.endswith("$") and not pattern.endswith(r"\$") and not is_multiline
    ]

    assert offenders == []
