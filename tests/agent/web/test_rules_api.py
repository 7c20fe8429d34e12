"""Rules and alerts in the query API."""

from __future__ import annotations

from typing import Any

import pytest

from collectors import Sample
from tests.agent.web.served_api import HEAT, IDENTITY, NOW_MS, ServedApi


def test_rules_are_shown_with_their_state(api: ServedApi) -> None:
    """Groups are in order of their names; each rule has its health, and an alerting rule its alerts."""
    first, second = api.get_data("rules")["groups"]
    recording, alerting = first["rules"]
    alerts = {each["labels"]["dimm"]: each for each in alerting.pop("alerts")}

    assert (first["name"], first["interval"], first["limit"]) == ("first", 5, 7)
    assert first["file"].endswith("rules.yml")
    assert first["lastEvaluation"] == "2023-11-14T22:13:20Z"
    assert recording["type"] == "recording"
    assert (recording["name"], recording["query"], recording["health"]) == ("heat:max", "max(heat_celsius)", "ok")
    assert (alerting["state"], alerting["duration"], alerting["keepFiringFor"]) == ("firing", 60, 120)
    assert alerting["annotations"] == {"summary": "DIMM {{ $labels.dimm }} is hot"}
    assert alerts["b"]["state"] == "firing"
    assert alerts["b"]["labels"] == {"alertname": "Hot", "dimm": "b", "severity": "page", **IDENTITY}
    assert alerts["b"]["annotations"] == {"summary": "DIMM b is hot"}
    assert alerts["b"]["value"] == "4.2e+01"
    assert alerts["b"]["activeAt"] == "2023-11-14T22:11:50Z"
    assert [each["state"] for each in second["rules"] if each["type"] == "alerting"] == ["inactive"]
    assert [each["health"] for each in second["rules"]] == ["ok", "err"]
    assert "many-to-many" in second["rules"][1]["lastError"]
    assert second["interval"] == 1


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"type": "alert"}, ["Hot", "Cold"]),
        ({"type": "record"}, ["heat:max", "broken"]),
        ({"rule_name[]": ["Cold", "heat:max"]}, ["heat:max", "Cold"]),
        ({"rule_group[]": "second"}, ["Cold", "broken"]),
        ({"file[]": "elsewhere.yml"}, []),
        ({"match": '{severity="page"}'}, ["Hot"]),
        ({"group_limit": 1}, ["heat:max", "Hot"]),
    ],
)
def test_rules_can_be_chosen(api: ServedApi, parameters: dict[str, Any], names: list[str]) -> None:
    """Rules are selected by kind, name, group, file, labels and page."""
    groups = api.get_data("rules", **parameters)["groups"]

    assert [rule["name"] for group in groups for rule in group["rules"]] == names
    assert all(group["rules"] for group in groups)


def test_rules_come_in_pages(api: ServedApi) -> None:
    """The token of a page is the beginning of the next; the last page has none."""
    token = api.get_data("rules", group_limit=1)["groupNextToken"]
    last = api.get_data("rules", group_limit=1, group_next_token=token, exclude_alerts="true")

    assert [group["name"] for group in last["groups"]] == ["second"]
    assert "groupNextToken" not in last
    assert last["groups"][0]["rules"][0]["alerts"] == []
    assert api.get_error("rules", group_limit=1, group_next_token="x")[0] == 400


def test_alerts_are_those_that_live(api: ServedApi) -> None:
    """Pending and firing alerts are listed; an alert that only keeps firing has the time since when."""
    assert [(each["labels"]["dimm"], each["state"]) for each in api.get_data("alerts")["alerts"]] == [("b", "firing")]
    api.history.record("hwmon", NOW_MS + 5000, [Sample(HEAT, (("dimm", "b"),), 10.0)])
    api.rules.evaluate(api.history, NOW_MS + 5000)

    assert [each["keepFiringSince"] for each in api.get_data("alerts")["alerts"]] == ["2023-11-14T22:13:25Z"]
