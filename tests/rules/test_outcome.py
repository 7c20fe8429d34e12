"""What one rule makes of its query: labels of a bounded length."""

from __future__ import annotations

from pathlib import Path

import pytest

from rules.promql.values import MAX_VALUE_LENGTH
from rules.templates.template import Scope, Template
from tests.rules.evaluated_host import Host, load_rule_text


def test_a_label_that_a_template_makes_too_long_loses_its_text_and_not_the_alert(tmp_path: Path) -> None:
    """A template may write a million characters; a label is repeated in ALERTS, notifications and the journal."""
    rule = (
        "{alert: Hot, expr: hot > 1, labels: {long: '{{ printf `%16385d` 1 }}', longest: '{{ printf `%16384d` 1 }}'},"
        " annotations: {text: '{{ printf `%16385d` 1 }}'}}"
    )
    host = Host(load_rule_text(tmp_path, rule))
    host.tick(5)
    labels = dict(host.alert.labels)

    assert labels["long"] == (
        "<error expanding template: label long would have 16,385 characters, and 16,384 are allowed; "
        "put long texts into annotations>"
    )
    assert len(labels["longest"]) == MAX_VALUE_LENGTH
    assert len(dict(host.alert.annotations)["text"]) == MAX_VALUE_LENGTH + 1


@pytest.mark.parametrize(("length", "is_refused"), [(10, False), (16_000, True)])
def test_the_labels_that_a_query_of_a_template_returns_are_work(length: int, is_refused: bool) -> None:
    """A variable may hold the results of many queries, so their labels count like other texts."""
    template = Template.parse("Hot", "{{ $x := args }}{{ range 1000 }}{{ $x = args $x (query `m`) }}{{ end }}")
    text = template.expand(Scope({}, 1.0, {}, "", 0, lambda _: [((("a", "x" * length),), 1.0)]))

    assert ("exceeds its work limit" in text) == is_refused
