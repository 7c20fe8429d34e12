"""alerts.db: which changes are written, and how a damaged file is handled."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agent.alerting.alert_store import FILE, AlertStore, SavedState
from rules.alert_restore import RuleKey, SavedAlert
from rules.alerts import Alert, AlertState

HOUSE = Path(__file__).parents[3]
KEY = RuleKey("Hot", (("severity", "warning"),), "hot > 80", 1)
ALERT = Alert(
    name="Hot",
    labels=(("alertname", "Hot"), ("dimm", 'a"ü')),
    annotations=(("summary", "It's hot; DROP TABLE alerts"),),
    state=AlertState.FIRING,
    value=81.5,
    active_at_ms=1000,
    expr="hot > 80",
    interval_ms=1000,
    fired_at_ms=9000,
    keep_firing_since_ms=12_000,
    lost_since_ms=13_000,
    fresh=False,
)


def read_saved_state(folder: Path) -> SavedState:
    store = AlertStore(folder)
    store.close()
    return store.saved_state


def save_alerts(folder: Path, alerts: list[Alert], sent: dict[tuple[tuple[str, str], ...], int] | None = None) -> None:
    store = AlertStore(folder)
    store.save([SavedAlert(KEY, alert) for alert in alerts], sent or {}, 20_000)
    store.close()


def test_everything_comes_back(tmp_path: Path) -> None:
    """Each field of an alert, the time it was last sent, and the time of the save are restored."""
    save_alerts(tmp_path, [ALERT], {ALERT.labels: 15_000})

    assert read_saved_state(tmp_path) == SavedState((SavedAlert(KEY, ALERT),), {ALERT.labels: 15_000}, 20_000)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), -0.0, 5e-324])
def test_every_value_comes_back(tmp_path: Path, value: float) -> None:
    """Values that JSON cannot represent are restored unchanged."""
    save_alerts(tmp_path, [replace(ALERT, value=value)])

    assert repr(read_saved_state(tmp_path).alerts[0].alert.value) == repr(value)


def test_only_changes_are_written(tmp_path: Path) -> None:
    """A changed value alone is not written; a new state, time, sending or end is."""
    store = AlertStore(tmp_path)
    outcomes = []
    sent: dict[tuple[tuple[str, str], ...], int] = {}
    for alerts in ([], [], [ALERT], [ALERT], [replace(ALERT, value=99.0)], [replace(ALERT, fired_at_ms=9500)], [], []):
        outcomes.append(store.save([SavedAlert(KEY, alert) for alert in alerts], sent, 20_000))
        assert store.wait(10)
    store.save([SavedAlert(KEY, ALERT)], {}, 20_000)
    assert store.wait(10)
    outcomes.append(store.save([SavedAlert(KEY, ALERT)], {ALERT.labels: 1}, 20_000))
    store.close()

    assert outcomes == [True, False, True, False, False, True, True, False, True]
    assert read_saved_state(tmp_path).last_sent_ms == {ALERT.labels: 1}


def test_what_ended_is_gone(tmp_path: Path) -> None:
    """An alert that is no longer tracked leaves the file, even if an earlier process wrote it."""
    other = replace(ALERT, labels=(("alertname", "Hot"),))
    save_alerts(tmp_path, [ALERT, other])
    save_alerts(tmp_path, [other])

    assert [saved_alert.alert for saved_alert in read_saved_state(tmp_path).alerts] == [other]


DAMAGES = {
    "text": b"this is no database\n" * 100,
    "a torn file": None,
    "another version": "PRAGMA user_version = 99",
    "other columns": "ALTER TABLE alerts RENAME COLUMN alert TO other",
    "no JSON": "UPDATE alerts SET alert = '{'",
    "another time": "UPDATE alerts SET alert = replace(alert, '9000', '1000')",
    "another labelling": "UPDATE alerts SET labels = replace(labels, 'dimm', 'node')",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_read_is_moved_aside(tmp_path: Path, damage: str) -> None:
    """A damaged file is renamed, with one log line; the agent starts clean and writes again."""
    save_alerts(tmp_path, [ALERT])
    path, how = tmp_path / FILE, DAMAGES[damage]
    if isinstance(how, str):
        with sqlite3.connect(path) as database:
            database.execute(how)
        database.close()
    else:
        path.write_bytes(how if how is not None else path.read_bytes()[:5000])
    damaged = path.read_bytes()
    with capture_logs() as lines:
        assert read_saved_state(tmp_path).alerts == ()

    assert [line["event"] for line in lines] == ["alerts.db cannot be read; moved aside, starting clean"]
    assert (tmp_path / f"{FILE}.unreadable").read_bytes() == damaged
    save_alerts(tmp_path, [ALERT])
    assert read_saved_state(tmp_path).alerts == (SavedAlert(KEY, ALERT),)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_invents_an_alert(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever bytes of the file are flipped, the agent restores what was written, or nothing."""
    for old in tmp_path.iterdir():
        old.unlink()
    save_alerts(tmp_path, [ALERT], {ALERT.labels: 15_000})
    content = bytearray((tmp_path / FILE).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (tmp_path / FILE).write_bytes(content)
    with capture_logs():
        state = read_saved_state(tmp_path)

    assert state.alerts in ((), (SavedAlert(KEY, ALERT),))
    assert state.last_sent_ms in ({}, {ALERT.labels: 15_000})


def test_a_folder_in_its_place_is_survived(tmp_path: Path) -> None:
    """If no file can be opened or moved, alerts are not saved, which is logged once."""
    (tmp_path / FILE).mkdir()
    (tmp_path / f"{FILE}.unreadable").mkdir()
    (tmp_path / f"{FILE}.unreadable/full").write_text("")
    with capture_logs() as lines:
        store = AlertStore(tmp_path)
        for _ in range(3):
            store.save([SavedAlert(KEY, ALERT)], {}, 20_000)
            assert store.wait(10)
        store.close()

    assert [line["event"] for line in lines if "saved" in line["event"]] == ["alerts cannot be saved"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from structlog.testing import capture_logs
from tests.agent.alerting.test_alert_store import ALERT, KEY
from agent.alerting.alert_store import AlertStore
from dataclasses import replace
from rules.alert_restore import SavedAlert

store = AlertStore(Path(sys.argv[1]))
with capture_logs() as lines:
    for limit in (100, 100, resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        store.save([SavedAlert(KEY, replace(ALERT, active_at_ms=limit))], {}, 20_000)
        assert store.wait(10)
store.close()
print([line["event"] for line in lines])
"""


def test_a_full_disk_is_told_once_and_survived(tmp_path: Path) -> None:
    """Failed writes cause one log line, and their end another; the file then has the newest state."""
    program = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    completed = subprocess.run(program, cwd=HOUSE, capture_output=True, text=True, check=False, timeout=50)

    assert completed.stdout == "['alerts cannot be saved', 'alerts are saved again']\n", completed.stderr
    assert [saved_alert.alert.active_at_ms for saved_alert in read_saved_state(tmp_path).alerts] == [-1]
