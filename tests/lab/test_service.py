"""The service on a machine that systemd booted: installed from nothing, tried, upgraded, rebooted, taken away."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab import machine, service_machine
from tests.lab.conftest import read_result
from tests.lab.guest_service import EDITED

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]

Saw = Callable[[str], dict[str, Any]]
# Absent in such a machine: no RAPL, no EDAC, no throttle counters, no resctrl, no cpufreq, no engine.
WORKING = {"meminfo", "node_meminfo", "numastat", "vmstat", "stat", "pressure", "topology", "kmsg", "dmi"}


@pytest.fixture(scope="module", name="service_ran")
def _service_ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the machine that systemd booted, in which all stages are done."""
    if (sentence := service_machine.find_missing()) is not None:
        if os.environ.get("STEADYTOK_REQUIRE_PEERS"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    out = tmp_path_factory.mktemp("service")
    out.chmod(0o755)  # a user without rights reads the program there too
    image = service_machine.prepare()
    service_machine.furnish(out)
    service_machine.run(image, out)
    return out


@pytest.fixture(scope="module", name="read_stage")
def _read_stage(service_ran: Path) -> Saw:
    """Reads the results of a stage in that machine."""
    return lambda name: read_result(service_ran, name)


def entries(journal: str) -> list[dict[str, Any]]:
    """Entries of a journal as journalctl writes them in JSON."""
    return [json.loads(line) for line in journal.splitlines() if line.startswith("{")]


def test_a_rehearsal_and_a_stranger_touch_nothing(read_stage: Saw) -> None:
    """--dry-run tells the steps; without root there is one sentence and status 1."""
    result = read_stage("install")

    assert result["rehearsed"]["status"] == 0, result["rehearsed"]
    assert "would write /usr/local/lib/systemd/system/steadytok.service" in result["rehearsed"]["out"]
    assert result["untouched"]
    assert (result["as_nobody"]["status"], result["as_nobody"]["err"].count("\n")) == (1, 1), result["as_nobody"]
    assert "this needs root" in result["as_nobody"]["err"]


def test_from_nothing_to_a_service_that_is_ready(read_stage: Saw) -> None:
    """`steadytok install` ends when the first tick has ended; its status says what it watches."""
    result = read_stage("install")

    assert result["install"]["status"] == 0, result["install"]
    assert result["unit"]["ActiveState"] == "active", result["unit"]
    assert (result["unit"]["NRestarts"], result["unit"]["User"]) == ("0", "steadytok")
    assert re.search(r"http://127\.0\.0\.1:9817/  \d+ collectors, \d+ alerts firing", result["unit"]["StatusText"])
    assert result["score"] == "-900"


def test_a_second_install_changes_nothing(read_stage: Saw) -> None:
    """No file is written again."""
    assert read_stage("install")["again"]["status"] == 0
    assert "write" not in read_stage("install")["again"]["out"]


def test_status_is_clean(read_stage: Saw) -> None:
    """No unit has failed, eye and doors are there, and systemctl has nothing to warn of."""
    result = read_stage("install")
    units = {line.split()[0]: line.split()[2:4] for line in result["units"].splitlines()}

    assert result["status"]["status"] == 0, result["status"]
    assert "Active: active (running)" in result["status"]["out"]
    assert not re.search(r"warning|changed on disk", result["status"]["out"].split("CGroup:")[0], re.I), result[
        "status"
    ]["out"]
    assert result["failed"] == ""
    assert units["steadytok-eye.socket"][0] == units["steadytok-hand.socket"][0] == "active"
    assert [state for name, state in units.items() if name.startswith("steadytok-eye@")] == [["active", "running"]]


def test_the_journal_is_readable(read_stage: Saw) -> None:
    """Lines have their priority, each is text on one line, and nothing is worse than a notice but an emulated eye."""
    lines = [
        entry
        for entry in entries(read_stage("install")["journal"])
        if entry.get("_SYSTEMD_UNIT", "").startswith("steadytok")
    ]

    assert lines
    assert [entry for entry in lines if not isinstance(entry["MESSAGE"], str)] == []
    # In emulation the eye takes ten seconds to start, and its first reads are late by so much.
    worse = [entry["MESSAGE"] for entry in lines if int(entry["PRIORITY"]) <= 4]
    assert [
        message for message in worse if "a read does not return; the other collectors continue" not in message
    ] == []
    assert any("listening" in entry["MESSAGE"] for entry in lines)


def test_check_explains_the_machine(read_stage: Saw) -> None:
    """What works is said to work, and what is not there has its reason beside it."""
    result = read_stage("install")["check"]
    lines = {line.split()[0]: line for line in result["out"].splitlines() if line[:1].strip()}

    assert result["status"] == 0, result
    assert {name for name in WORKING if " ok " not in lines[name]} == set()
    assert "modprobe" in lines["hwmon"]
    assert "name your engines" in lines["engine"]


def test_the_service_reads_what_the_daemon_may_not(read_stage: Saw) -> None:
    """Through the eye the firmware's table and the kernel's log are there, though the daemon has no right at all."""
    answered = read_stage("install")["collectors"]["data"]["result"]
    success = {series["metric"]["collector"]: series["value"][1] for series in answered}

    assert {name: success.get(name) for name in WORKING} == dict.fromkeys(WORKING, "1")


def test_heat_reaches_a_real_alertmanager(read_stage: Saw) -> None:
    """The configuration named it, the drop-in lets it through, and the alert says which module."""
    result = read_stage("hot")
    (alert,) = result["told"]

    assert "IPAddressAllow=192.0.2.10\n" in result["network"]
    assert (alert["labels"]["instance"], alert["labels"]["dimm"]) == ("guest", service_machine.DIMM)
    assert "is at 99.0 °C" in alert["annotations"]["summary"]


def test_a_module_has_one_name_from_every_source(read_stage: Saw) -> None:
    """The firmware's table, the SPD's serial number and the BMC are read by three doors, and all mean one slot."""
    result = read_stage("hot")

    assert {(metric["dimm"], metric["source"]) for metric in result["dimms"]} == {
        (service_machine.DIMM, "hwmon"),
        (service_machine.DIMM, "ipmi"),
    }
    assert [(slot["dimm"], slot["serial_number"]) for slot in result["slots"]] == [
        (service_machine.DIMM, machine.SLOT["serial"])
    ]


def test_the_bmc_is_the_eyes(read_stage: Saw) -> None:
    """udev gives /dev/ipmi0 to the eye's group alone, its unit lets it be opened, and what the BMC measures is told."""
    result = read_stage("hot")

    assert result["bmc"] == {"group": "steadytok-eye", "mode": "0o660"}
    assert {metric["sensor"]: value for metric, value in result["ipmi"]} == {"P1-DIMMA0 Temp": 42.0, "Inlet Temp": 24.0}
    assert [value for _, value in result["fan"]] == [6000.0]


def test_an_engine_of_another_users_is_known_by_its_port_and_its_wishes(read_stage: Saw) -> None:
    """Its sockets and its environment are its own user's files: what is needed of them is told, and no word more."""
    result = read_stage("hot")
    wishes = {(metric["engine"], metric["source"], metric["policy"]) for metric, _ in result["asked"]}

    assert wishes == {("odd", "LLAMA_ARG_NUMA", "distribute")}
    assert "swordfish" not in json.dumps(result)


def test_the_remedy_is_in_proc(read_stage: Saw) -> None:
    """The kernel counts one drop of the page cache, and the diary says whose it was."""
    result = read_stage("hot")

    assert result["after"] == result["before"] + 1
    assert "drop_caches for process" in result["hand"], result["hand"]
    assert "drop" in result["audit"]["out"]


def test_the_eye_sees_where_another_users_pages_are(read_stage: Saw) -> None:
    """Shares by node of an engine's memory, which sum to one: the daemon does not even see the process."""
    shares = read_stage("hot")["placed"]

    assert {metric["engine"] for metric, _ in shares} == {"lab"}
    assert sum(share for _, share in shares) == pytest.approx(1.0)


def test_an_engine_as_a_service_is_paced_as_it_ships(read_stage: Saw) -> None:
    """systemd gives it the daemon's token, with which remedies that are told none hold it back; it has no right."""
    result = read_stage("hot")

    assert result["served"] == {"ActiveState": "active", "NRestarts": "0", "User": "steadytok-engine"}
    assert result["paced"] == 0.5, result["served_journal"]
    assert "hold (DimmHot): did" in result["audit"]["out"]
    assert {mask for _, mask in result["rights"]} == {"0" * 16}


def test_nothing_is_written_outside_the_state_folder(read_stage: Saw) -> None:
    """Every folder and file of the machine was tried, /proc/sys and /sys too."""
    tried = read_stage("walls")["tried"]

    assert tried is not None, read_stage("walls")["journal"]
    assert {path for path in tried["written"] if not path.startswith("/var/lib/steadytok")} == set()
    assert "/var/lib/steadytok" in tried["written"]
    assert tried["kernel_written"] == []


def test_nothing_is_executed_but_our_interpreter(read_stage: Saw) -> None:
    """Not a shell, not its own file, not through the loader, not from memory; every file of the disk was tried."""
    tried = read_stage("walls")["tried"]
    # The engine of `listener` is a link to that interpreter.
    allowed = re.compile(
        r"^/run/lab-bin/llama-server$|"
        r"^/usr/bin/python3[.\d]*$|^/usr/local/bin/steadytok$|^/opt/steadytok/|\.so(\.[\d.]+)?$|/ld-[\w.-]+$"
    )

    assert [path for path in tried["executable"] if not allowed.search(path)] == []
    assert tried["executed"].pop("interpreter") == "done"
    assert "done" not in tried["executed"].values(), tried["executed"]


def test_no_device_is_opened(read_stage: Saw) -> None:
    """Of /dev only what every process has; and none can be made."""
    opened_devices = {path for path, outcome in read_stage("walls")["tried"]["devices"].items() if outcome == "done"}

    harmless = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts/ptmx"}
    assert opened_devices <= {f"/dev/{name}" for name in harmless}


def test_no_other_process_is_read(read_stage: Saw) -> None:
    """Other users' processes are not even seen, and systemd can be neither read, signalled nor traced."""
    tried = read_stage("walls")["tried"]["processes"]

    assert tried.pop("seen") == []
    assert "done" not in tried.values(), tried


def test_only_who_is_configured_is_reached(read_stage: Saw) -> None:
    """An address that the configuration does not name is out of reach, though it is this very host's."""
    tried = read_stage("walls")["tried"]["reached"]

    assert (tried.pop("the manager"), tried.pop("this host")) == ("done", "done")
    assert "done" not in tried.values(), tried


def test_the_daemon_has_no_right(read_stage: Saw) -> None:
    """No capability, none to be had, and no secret of root's."""
    tried = read_stage("walls")["tried"]["rights"]

    assert {tried.pop(name) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (tried.pop("NoNewPrivs"), tried.pop("Seccomp")) == ("1", "2")
    assert "done" not in tried.values(), tried


def test_a_loop_that_stands_still_is_restarted(read_stage: Saw) -> None:
    """Only the ticking thread stood still: systemd ends it, the journal says where it stood, the alert goes on."""
    result = read_stage("watchdog")

    assert result["after"]["pid"] != result["before"]["pid"]
    assert result["after"]["active_at"] == result["before"]["active_at"]
    assert "Watchdog timeout" in result["journal"]
    assert "Fatal Python error: Aborted" in result["journal"]
    assert re.search(r"File .*agent/commands/run\.py", result["journal"])


def test_a_kill_loses_no_alert(read_stage: Saw) -> None:
    """SIGKILL: another life, the same alert, and Alertmanager never heard that it ended."""
    result = read_stage("watchdog")

    assert result["killed"]["pid"] not in (result["after"]["pid"], result["before"]["pid"])
    assert result["killed"]["active_at"] == result["before"]["active_at"]
    assert len(result["told"]) == 1


def test_ten_restarts_leave_nothing_behind(read_stage: Saw) -> None:
    """No process, unit, mount or file more after the tenth stop than after the first; every stop was a good one."""
    result = read_stage("restarts")

    assert {(stop["Result"], stop["ExecMainStatus"]) for stop in result["stops"]} == {("success", "0")}
    assert result["last"]["processes"] == []
    assert result["last"] == result["first"]
    assert result["state"]["active_at"] == read_stage("watchdog")["before"]["active_at"]


def test_an_upgrade_keeps_state_and_configuration(read_stage: Saw) -> None:
    """The new version runs, the edited file is as it was, the alert began when it began."""
    result = read_stage("upgrade")

    assert result["upgrade"]["status"] == 0, result["upgrade"]
    assert result["version"] == f"steadytok {service_machine.NEWER}"
    assert result["build"]["data"]["result"][0]["metric"]["version"] == service_machine.NEWER
    assert result["config_after"] == EDITED
    assert result["after"]["active_at"] == result["before"]["active_at"]
    assert set(result["state"]) <= set(result["state_after"])


def test_an_upgrade_that_cannot_be_had_changes_nothing(read_stage: Saw) -> None:
    """One sentence, the service goes on, and no half-made venv is left."""
    result = read_stage("upgrade")

    assert result["impossible"]["status"] == 1
    assert "No matching distribution found for steadytok==99" in result["impossible"]["err"]
    assert len(result["venvs"]) == 2, result["venvs"]
    assert result["still"]


def test_after_a_reboot_it_is_there_and_remembers(read_stage: Saw) -> None:
    """It starts by itself, with its eye, and the alert began when it began."""
    result = read_stage("after_reboot")

    assert result["unit"] == {"ActiveState": "active", "NRestarts": "0"}
    assert result["eyes"]
    assert result["failed"] == ""
    assert result["state"]["active_at"] == result["before"]["active_at"]


def test_taken_away_it_leaves_what_it_knew_and_purged_it_leaves_nothing(read_stage: Saw) -> None:
    """uninstall keeps configuration and state; --purge leaves no file, user or unit, and then nothing is to do."""
    result = read_stage("purge")

    assert result["uninstall"]["status"] == result["purge"]["status"] == result["again"]["status"] == 0, result
    assert list(result["kept"].values()) == [True, True, False, False]
    assert (result["left"], result["lost"], result["run"], result["units"]) == ([], [], [], "")
    assert result["passwd"][0] == result["passwd"][1]
    assert "steadytok is not installed here" in result["again"]["out"]
