"""An upgrade from the version before the rooms, on a machine with its own systemd."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from tests.lab import service_machine
from tests.lab.conftest import StageReader
from tests.lab.guest_upgrade import BASELINE, OLD_CONFIG, OLD_RULES

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3300)]


@pytest.fixture(scope="module", name="result")
def _read_result(read_service_stage: StageReader) -> dict[str, Any]:
    """The results of the stage."""
    if (sentence := service_machine.find_missing_history()) is not None:
        pytest.skip(sentence)  # never a failure: a shallow clone lacks no program that could be installed
    return read_service_stage("old_upgrade")


def test_the_old_command_upgrades_to_the_new_version(result: dict[str, Any]) -> None:
    """`steadytok upgrade` of the old version succeeds, and ends with the new version's service active."""
    before, after = result["before"], result["after"]

    assert result["install"]["status"] == 0, result["install"]
    assert before["version"] == f"steadytok {service_machine.OLDER}"
    assert result["upgrade"]["status"] == 0, result["upgrade"]
    assert result["active"]
    assert after["version"] == "steadytok 0.1.0"
    assert after["build"]["data"]["result"][0]["metric"]["version"] == "0.1.0"
    assert result["failed"] == ""


def test_the_alert_continues(result: dict[str, Any]) -> None:
    """It keeps its labels and its start, and the Alertmanager receives no message that ends it."""
    before, after = result["before"], result["after"]

    assert (after["active_at"], after["labels"]) == (before["active_at"], before["labels"])
    assert len(after["messages"]) > len(before["messages"])
    assert {message["startsAt"] for message in after["messages"]} == {before["messages"][0]["startsAt"]}
    ended = [m for m in after["messages"] if datetime.fromisoformat(m["endsAt"]).timestamp() <= m["received"]]
    assert ended == []


def test_the_audit_log_keeps_its_entries(result: dict[str, Any]) -> None:
    """`steadytok remedies audit --json` of the new version begins with the entries of the old one."""
    before, after = result["before"]["audit"], result["after"]["audit"]

    assert {entry["remedy"] for entry in before} >= {"watch"}
    assert after[: len(before)] == before


def test_the_baseline_is_kept(result: dict[str, Any]) -> None:
    """The new version loads and saves every bin and every learnt placement."""
    assert result["baseline"] == BASELINE


def test_the_configuration_is_untouched(result: dict[str, Any]) -> None:
    """The edited configuration and the rule file are equal to the byte."""
    assert (result["before"]["config"], result["before"]["rules"]) == (OLD_CONFIG, OLD_RULES)
    assert (result["after"]["config"], result["after"]["rules"]) == (OLD_CONFIG, OLD_RULES)


def test_the_eye_runs_under_its_new_name(result: dict[str, Any]) -> None:
    """The unit is rewritten: before it runs agent.eye, after it runs agent.sampling.eye."""
    assert [arguments[4] for arguments in result["before"]["eyes"]] == ["agent.eye"]
    assert [arguments[4] for arguments in result["after"]["eyes"]] == ["agent.sampling.eye"]


def test_the_new_version_reads_the_old_state(result: dict[str, Any]) -> None:
    """It restores the alerts and the recorded samples, and logs no warning about any file."""
    entries = [json.loads(line) for line in result["journal"].splitlines() if line.startswith("{")]
    warnings = [entry["MESSAGE"] for entry in entries if int(entry["PRIORITY"]) <= 4]

    assert any("state restored" in entry["MESSAGE"] for entry in entries)
    # In emulation the eye takes ten seconds to start, so its first reads are that late.
    assert [message for message in warnings if "a read does not return" not in message] == []


def test_a_purge_leaves_no_file_of_either_version(result: dict[str, Any]) -> None:
    """`steadytok uninstall --purge` of the new version also removes the files of the old one."""
    assert result["purge"]["status"] == 0, result["purge"]
    assert result["left"] == []
