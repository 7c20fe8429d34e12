"""The service in a machine with its own systemd: installed, attacked, restarted, upgraded, rebooted, uninstalled."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.lab import machine, service_machine
from tests.lab.conftest import StageReader
from tests.lab.guest_heat import EDITED_CONFIG

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3300)]

# Absent in such a machine: no RAPL, no EDAC, no throttle counters, no resctrl, no cpufreq, no engine.
WORKING = {"meminfo", "node_meminfo", "numastat", "vmstat", "stat", "pressure", "topology", "kmsg", "dmi"}


def parse_journal(journal: str) -> list[dict[str, Any]]:
    """Entries of a journal as journalctl writes them in JSON."""
    return [json.loads(line) for line in journal.splitlines() if line.startswith("{")]


def test_a_dry_run_and_another_user_change_nothing(read_service_stage: StageReader) -> None:
    """--dry-run prints the steps; without root, install prints one sentence and ends with status 1."""
    result = read_service_stage("install")

    assert result["dry_run"]["status"] == 0, result["dry_run"]
    assert "would write /usr/local/lib/systemd/system/steadytok.service" in result["dry_run"]["out"]
    assert result["untouched"]
    assert (result["as_nobody"]["status"], result["as_nobody"]["err"].count("\n")) == (1, 1), result["as_nobody"]
    assert "this needs root" in result["as_nobody"]["err"]


def test_from_nothing_to_a_service_that_is_ready(read_service_stage: StageReader) -> None:
    """`steadytok install` ends after the first tick; the unit's status text has the address, collectors and alerts."""
    result = read_service_stage("install")

    assert result["install"]["status"] == 0, result["install"]
    assert result["unit"]["ActiveState"] == "active", result["unit"]
    assert (result["unit"]["NRestarts"], result["unit"]["User"]) == ("0", "steadytok")
    assert re.search(r"http://127\.0\.0\.1:9817/  \d+ collectors, \d+ alerts firing", result["unit"]["StatusText"])
    assert result["oom_score"] == "-900"


def test_a_second_install_changes_nothing(read_service_stage: StageReader) -> None:
    """It writes no file."""
    assert read_service_stage("install")["again"]["status"] == 0
    assert "write" not in read_service_stage("install")["again"]["out"]


def test_status_is_clean(read_service_stage: StageReader) -> None:
    """No unit has failed, the sockets and one eye are active, and systemctl prints no warning."""
    result = read_service_stage("install")
    units = {line.split()[0]: line.split()[2:4] for line in result["units"].splitlines()}

    assert result["status"]["status"] == 0, result["status"]
    assert "Active: active (running)" in result["status"]["out"]
    assert not re.search(r"warning|changed on disk", result["status"]["out"].split("CGroup:")[0], re.I), result[
        "status"
    ]["out"]
    assert result["failed"] == ""
    assert units["steadytok-eye.socket"][0] == units["steadytok-hand.socket"][0] == "active"
    assert [state for name, state in units.items() if name.startswith("steadytok-eye@")] == [["active", "running"]]


def test_the_journal_is_readable(read_service_stage: StageReader) -> None:
    """Each entry is one line of text with its priority, and none is a warning, except for what emulation makes slow."""
    lines = [
        entry
        for entry in parse_journal(read_service_stage("install")["journal"])
        if entry.get("_SYSTEMD_UNIT", "").startswith("steadytok")
    ]

    assert lines
    assert [entry for entry in lines if not isinstance(entry["MESSAGE"], str)] == []
    # In emulation the eye takes ten seconds to start, so its first reads are that late. On a slow host they are later
    # than an alert waits for; no Alertmanager is there to take it.
    warnings = [entry["MESSAGE"] for entry in lines if int(entry["PRIORITY"]) <= 4]
    late = ("a read does not return", "alerts cannot be sent")
    assert [message for message in warnings if not any(words in message for words in late)] == []
    assert any("listening" in entry["MESSAGE"] for entry in lines)


def test_check_explains_the_machine(read_service_stage: StageReader) -> None:
    """Collectors that work are ok, and absent hardware has its reason on the same line."""
    result = read_service_stage("install")["check"]
    lines = {line.split()[0]: line for line in result["out"].splitlines() if line[:1].strip()}

    assert result["status"] == 0, result
    assert {name for name in WORKING if " ok " not in lines[name]} == set()
    assert "modprobe" in lines["hwmon"]
    assert "name your engines" in lines["engine"]


def test_the_eye_reads_files_that_the_daemon_may_not(read_service_stage: StageReader) -> None:
    """The eye reads the firmware's table and the kernel's log; the daemon itself has no privileges."""
    series_list = read_service_stage("install")["collectors"]["data"]["result"]
    success = {series["metric"]["collector"]: series["value"][1] for series in series_list}

    assert {name: success.get(name) for name in WORKING} == dict.fromkeys(WORKING, "1")


def test_heat_reaches_a_real_alertmanager(read_service_stage: StageReader) -> None:
    """The drop-in allows the configured address, and the alert names the module."""
    result = read_service_stage("heat")
    (alert,) = result["alertmanager_alerts"]

    assert "IPAddressAllow=192.0.2.10\n" in result["network"]
    assert (alert["labels"]["instance"], alert["labels"]["dimm"]) == ("guest", service_machine.DIMM)
    assert "is at 99.0 °C" in alert["annotations"]["summary"]


def test_a_module_has_one_name_from_every_source(read_service_stage: StageReader) -> None:
    """The firmware's table, the SPD's serial number and the BMC are three sources, and all name the same slot."""
    result = read_service_stage("heat")

    assert {(metric["dimm"], metric["source"]) for metric in result["dimms"]} == {
        (service_machine.DIMM, "hwmon"),
        (service_machine.DIMM, "ipmi"),
    }
    assert [(slot["dimm"], slot["serial_number"]) for slot in result["slots"]] == [
        (service_machine.DIMM, machine.SLOT["serial"])
    ]


def test_only_the_eye_may_open_the_bmc(read_service_stage: StageReader) -> None:
    """udev gives /dev/ipmi0 to the eye's group alone, and the agent exposes the BMC's measurements."""
    result = read_service_stage("heat")

    assert result["bmc"] == {"group": "steadytok-eye", "mode": "0o660"}
    assert {metric["sensor"]: value for metric, value in result["ipmi"]} == {"P1-DIMMA0 Temp": 42.0, "Inlet Temp": 24.0}
    assert [value for _, value in result["fan"]] == [6000.0]


def test_another_users_engine_is_found_by_its_port(
    read_service_stage: StageReader,
) -> None:
    """Of its environment, which its own user alone may read, only the requested placement is exposed."""
    result = read_service_stage("heat")
    requests = {(metric["engine"], metric["source"], metric["policy"]) for metric, _ in result["placement_requests"]}

    assert requests == {("odd", "LLAMA_ARG_NUMA", "distribute")}
    assert "swordfish" not in json.dumps(result)


def test_the_remedy_drops_the_page_cache_once(read_service_stage: StageReader) -> None:
    """The kernel counts one drop of the page cache, and the hand's journal and the audit log name it."""
    result = read_service_stage("heat")

    assert result["drops_after"] == result["drops_before"] + 1
    assert "drop_caches for process" in result["hand_journal"], result["hand_journal"]
    assert "drop" in result["audit"]["out"]


def test_the_eye_sees_where_another_users_pages_are(read_service_stage: StageReader) -> None:
    """The shares by node of an engine's memory sum to one; the daemon cannot see the process."""
    shares = read_service_stage("heat")["node_shares"]

    assert {metric["engine"] for metric, _ in shares} == {"lab"}
    assert sum(share for _, share in shares) == pytest.approx(1.0)


def test_an_engine_as_a_service_is_paced_as_it_ships(read_service_stage: StageReader) -> None:
    """systemd gives it the daemon's pace token, which a remedy without a token uses; the engine has no capability."""
    result = read_service_stage("heat")

    assert result["engine_unit"] == {"ActiveState": "active", "NRestarts": "0", "User": "steadytok-engine"}
    assert result["duty"] == 0.5, result["engine_journal"]
    assert "hold (DimmHot): done" in result["audit"]["out"]
    assert {mask for _, mask in result["engine_capabilities"]} == {"0" * 16}


def test_nothing_is_written_outside_the_state_folder(read_service_stage: StageReader) -> None:
    """The probe has tried every folder and file of the machine, also /proc/sys and /sys."""
    attempts = read_service_stage("sandbox")["attempts"]

    assert attempts is not None, read_service_stage("sandbox")["journal"]
    assert {path for path in attempts["written"] if not path.startswith("/var/lib/steadytok")} == set()
    assert "/var/lib/steadytok" in attempts["written"]
    assert attempts["kernel_written"] == []


def test_nothing_is_executed_but_our_interpreter(read_service_stage: StageReader) -> None:
    """No shell, no file of its own, none through the loader or from memory; the probe has tried every file."""
    attempts = read_service_stage("sandbox")["attempts"]
    # The other user's engine is a link to that interpreter.
    allowed = re.compile(
        r"^/run/lab-bin/llama-server$|"
        r"^/usr/bin/python3[.\d]*$|^/usr/local/bin/steadytok$|^/opt/steadytok/|\.so(\.[\d.]+)?$|/ld-[\w.-]+$"
    )

    assert [path for path in attempts["executable"] if not allowed.search(path)] == []
    assert attempts["executed"].pop("interpreter") == "done"
    assert "done" not in attempts["executed"].values(), attempts["executed"]


def test_no_device_is_opened(read_service_stage: StageReader) -> None:
    """Only the harmless devices of /dev open, and none can be made."""
    outcomes = read_service_stage("sandbox")["attempts"]["devices"]
    opened_devices = {path for path, outcome in outcomes.items() if outcome == "done"}

    harmless = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts/ptmx"}
    assert opened_devices <= {f"/dev/{name}" for name in harmless}


def test_no_other_process_is_read(read_service_stage: StageReader) -> None:
    """Other users' processes are invisible, and systemd can be neither read, signalled nor traced."""
    attempts = read_service_stage("sandbox")["attempts"]["processes"]

    assert attempts.pop("visible") == []
    assert "done" not in attempts.values(), attempts


def test_only_configured_addresses_are_reached(read_service_stage: StageReader) -> None:
    """An address that the configuration does not name cannot be reached, although it is this host's own."""
    attempts = read_service_stage("sandbox")["attempts"]["reached"]

    assert (attempts.pop("the manager"), attempts.pop("this host")) == ("done", "done")
    assert "done" not in attempts.values(), attempts


def test_the_daemon_has_no_privileges(read_service_stage: StageReader) -> None:
    """It has no capability, can gain none, and reads no secret of root's."""
    attempts = read_service_stage("sandbox")["attempts"]["rights"]

    assert {attempts.pop(name) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (attempts.pop("NoNewPrivs"), attempts.pop("Seccomp")) == ("1", "2")
    assert "done" not in attempts.values(), attempts


def test_a_loop_that_stands_still_is_restarted(read_service_stage: StageReader) -> None:
    """If only the ticking thread stops, systemd restarts the daemon; the journal has its stack; the alert continues."""
    result = read_service_stage("watchdog")

    assert result["after"]["pid"] != result["before"]["pid"]
    assert result["after"]["active_at"] == result["before"]["active_at"]
    assert "Watchdog timeout" in result["journal"]
    assert "Fatal Python error: Aborted" in result["journal"]
    assert re.search(r"File .*agent/commands/run\.py", result["journal"])


def test_a_kill_loses_no_alert(read_service_stage: StageReader) -> None:
    """After SIGKILL a new process continues the same alert, and Alertmanager has it once."""
    result = read_service_stage("watchdog")

    assert result["killed"]["pid"] not in (result["after"]["pid"], result["before"]["pid"])
    assert result["killed"]["active_at"] == result["before"]["active_at"]
    assert len(result["alertmanager_alerts"]) == 1


def test_ten_restarts_leave_nothing_behind(read_service_stage: StageReader) -> None:
    """The tenth stop leaves the same processes, units, mounts and files as the first; every stop succeeds."""
    result = read_service_stage("restarts")

    assert {(stop["Result"], stop["ExecMainStatus"]) for stop in result["stops"]} == {("success", "0")}
    assert result["last"]["processes"] == []
    assert result["last"] == result["first"]
    assert result["state"]["active_at"] == read_service_stage("watchdog")["before"]["active_at"]


def test_an_upgrade_keeps_state_and_configuration(read_service_stage: StageReader) -> None:
    """The new version runs, the edited file is unchanged, and the alert keeps its start."""
    result = read_service_stage("upgrade")

    assert result["upgrade"]["status"] == 0, result["upgrade"]
    assert result["version"] == f"steadytok {service_machine.NEWER}"
    assert result["build"]["data"]["result"][0]["metric"]["version"] == service_machine.NEWER
    assert result["config_after"] == EDITED_CONFIG
    assert result["after"]["active_at"] == result["before"]["active_at"]
    assert set(result["state_before"]) <= set(result["state_after"])


def test_an_impossible_upgrade_changes_nothing(read_service_stage: StageReader) -> None:
    """It prints one sentence, the service continues, and no incomplete venv remains."""
    result = read_service_stage("upgrade")

    assert result["impossible"]["status"] == 1
    assert "No matching distribution found for steadytok==99" in result["impossible"]["err"]
    assert len(result["venvs"]) == 2, result["venvs"]
    assert result["still_active"]


def test_after_a_reboot_it_runs_and_continues_its_alert(read_service_stage: StageReader) -> None:
    """It starts by itself, with its eye, and the alert keeps its start."""
    result = read_service_stage("boot")

    assert result["unit"] == {"ActiveState": "active", "NRestarts": "0"}
    assert result["eyes"]
    assert result["failed"] == ""
    assert result["state"]["active_at"] == result["before"]["active_at"]


def test_uninstall_keeps_state_and_purge_leaves_nothing(read_service_stage: StageReader) -> None:
    """uninstall keeps configuration and state; --purge leaves no file, user or unit; a third run finds nothing."""
    result = read_service_stage("uninstall")

    assert result["uninstall"]["status"] == result["purge"]["status"] == result["again"]["status"] == 0, result
    assert list(result["kept"].values()) == [True, True, False, False]
    assert (result["left"], result["lost"], result["run"], result["units"]) == ([], [], [], "")
    assert result["passwd"][0] == result["passwd"][1]
    assert "steadytok is not installed here" in result["again"]["out"]
