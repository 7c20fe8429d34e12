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
from tests.lab.conftest import stage
from tests.lab.guest_service import EDITED

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]

Saw = Callable[[str], dict[str, Any]]
# Absent in such a machine: no RAPL, no EDAC, no throttle counters, no resctrl, no cpufreq, no engine.
WORKING = {"meminfo", "node_meminfo", "numastat", "vmstat", "stat", "pressure", "topology", "kmsg", "dmi"}


@pytest.fixture(scope="module", name="service_ran")
def _service_ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the machine that systemd booted, in which all stages are done."""
    if (sentence := service_machine.missing()) is not None:
        if os.environ.get("STEADYTOK_REQUIRE_PEERS"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    out = tmp_path_factory.mktemp("service")
    out.chmod(0o755)  # a user without rights reads the program there too
    image = service_machine.prepare()
    service_machine.furnish(out)
    service_machine.run(image, out)
    return out


@pytest.fixture(scope="module", name="saw")
def _saw(service_ran: Path) -> Saw:
    """What a stage saw in it."""
    return lambda name: stage(service_ran, name)


def entries(journal: str) -> list[dict[str, Any]]:
    """Entries of a journal as journalctl writes them in JSON."""
    return [json.loads(line) for line in journal.splitlines() if line.startswith("{")]


def test_a_rehearsal_and_a_stranger_touch_nothing(saw: Saw) -> None:
    """--dry-run tells the steps; without root there is one sentence and status 1."""
    seen = saw("install")

    assert seen["rehearsed"]["status"] == 0, seen["rehearsed"]
    assert "would write /usr/local/lib/systemd/system/steadytok.service" in seen["rehearsed"]["out"]
    assert seen["untouched"]
    assert (seen["as_nobody"]["status"], seen["as_nobody"]["err"].count("\n")) == (1, 1), seen["as_nobody"]
    assert "this needs root" in seen["as_nobody"]["err"]


def test_from_nothing_to_a_service_that_is_ready(saw: Saw) -> None:
    """`steadytok install` ends when the first tick has ended; its status says what it watches."""
    seen = saw("install")

    assert seen["install"]["status"] == 0, seen["install"]
    assert seen["unit"]["ActiveState"] == "active", seen["unit"]
    assert (seen["unit"]["NRestarts"], seen["unit"]["User"]) == ("0", "steadytok")
    assert re.search(r"http://127\.0\.0\.1:9817/  \d+ collectors, \d+ alerts firing", seen["unit"]["StatusText"])
    assert seen["score"] == "-900"


def test_a_second_install_changes_nothing(saw: Saw) -> None:
    """No file is written again."""
    assert saw("install")["again"]["status"] == 0
    assert "write" not in saw("install")["again"]["out"]


def test_status_is_clean(saw: Saw) -> None:
    """No unit has failed, eye and doors are there, and systemctl has nothing to warn of."""
    seen = saw("install")
    units = {line.split()[0]: line.split()[2:4] for line in seen["units"].splitlines()}

    assert seen["status"]["status"] == 0, seen["status"]
    assert "Active: active (running)" in seen["status"]["out"]
    assert not re.search(r"warning|changed on disk", seen["status"]["out"].split("CGroup:")[0], re.I), seen["status"][
        "out"
    ]
    assert seen["failed"] == ""
    assert units["steadytok-eye.socket"][0] == units["steadytok-hand.socket"][0] == "active"
    assert [state for name, state in units.items() if name.startswith("steadytok-eye@")] == [["active", "running"]]


def test_the_journal_is_readable(saw: Saw) -> None:
    """Lines have their priority, each is text on one line, and nothing is worse than a notice but an emulated eye."""
    lines = [
        entry for entry in entries(saw("install")["journal"]) if entry.get("_SYSTEMD_UNIT", "").startswith("steadytok")
    ]

    assert lines
    assert [entry for entry in lines if not isinstance(entry["MESSAGE"], str)] == []
    # In emulation the eye takes ten seconds to start, and its first reads are late by so much.
    worse = [entry["MESSAGE"] for entry in lines if int(entry["PRIORITY"]) <= 4]
    assert [message for message in worse if "a read does not return; the others go on" not in message] == []
    assert any("listening" in entry["MESSAGE"] for entry in lines)


def test_check_explains_the_machine(saw: Saw) -> None:
    """What works is said to work, and what is not there has its reason beside it."""
    seen = saw("install")["check"]
    told = {line.split()[0]: line for line in seen["out"].splitlines() if line[:1].strip()}

    assert seen["status"] == 0, seen
    assert {name for name in WORKING if " ok " not in told[name]} == set()
    assert "modprobe" in told["hwmon"]
    assert "name your engines" in told["engine"]


def test_the_service_reads_what_the_daemon_may_not(saw: Saw) -> None:
    """Through the eye the firmware's table and the kernel's log are there, though the daemon has no right at all."""
    answered = saw("install")["collectors"]["data"]["result"]
    success = {series["metric"]["collector"]: series["value"][1] for series in answered}

    assert {name: success.get(name) for name in WORKING} == dict.fromkeys(WORKING, "1")


def test_heat_reaches_a_real_alertmanager(saw: Saw) -> None:
    """The configuration named it, the drop-in lets it through, and the alert says which module."""
    seen = saw("hot")
    (alert,) = seen["told"]

    assert "IPAddressAllow=192.0.2.10\n" in seen["network"]
    assert (alert["labels"]["instance"], alert["labels"]["dimm"]) == ("guest", service_machine.DIMM)
    assert "is at 99.0 °C" in alert["annotations"]["summary"]


def test_a_module_has_one_name_from_every_source(saw: Saw) -> None:
    """The firmware's table, the SPD's serial number and the BMC are read by three doors, and all mean one slot."""
    seen = saw("hot")

    assert {(told["dimm"], told["source"]) for told in seen["dimms"]} == {
        (service_machine.DIMM, "hwmon"),
        (service_machine.DIMM, "ipmi"),
    }
    assert [(slot["dimm"], slot["serial_number"]) for slot in seen["slots"]] == [
        (service_machine.DIMM, machine.SLOT["serial"])
    ]


def test_the_bmc_is_the_eyes(saw: Saw) -> None:
    """udev gives /dev/ipmi0 to the eye's group alone, its unit lets it be opened, and what the BMC measures is told."""
    seen = saw("hot")

    assert seen["bmc"] == {"group": "steadytok-eye", "mode": "0o660"}
    assert {metric["sensor"]: value for metric, value in seen["ipmi"]} == {"P1-DIMMA0 Temp": 42.0, "Inlet Temp": 24.0}
    assert [value for _, value in seen["fan"]] == [6000.0]


def test_an_engine_of_another_users_is_known_by_its_port_and_its_wishes(saw: Saw) -> None:
    """Its sockets and its environment are its own user's files: what is needed of them is told, and no word more."""
    seen = saw("hot")
    wishes = {(metric["engine"], metric["source"], metric["policy"]) for metric, _ in seen["asked"]}

    assert wishes == {("odd", "LLAMA_ARG_NUMA", "distribute")}
    assert "swordfish" not in json.dumps(seen)


def test_the_remedy_is_in_proc(saw: Saw) -> None:
    """The kernel counts one drop of the page cache, and the diary says whose it was."""
    seen = saw("hot")

    assert seen["after"] == seen["before"] + 1
    assert "drop_caches for process" in seen["hand"], seen["hand"]
    assert "drop" in seen["audit"]["out"]


def test_the_eye_sees_where_another_users_pages_are(saw: Saw) -> None:
    """Shares by node of an engine's memory, which sum to one: the daemon does not even see the process."""
    shares = saw("hot")["placed"]

    assert {metric["engine"] for metric, _ in shares} == {"lab"}
    assert sum(share for _, share in shares) == pytest.approx(1.0)


def test_an_engine_as_a_service_is_paced_as_it_ships(saw: Saw) -> None:
    """systemd gives it the daemon's token, with which remedies that are told none hold it back; it has no right."""
    seen = saw("hot")

    assert seen["served"] == {"ActiveState": "active", "NRestarts": "0", "User": "steadytok-engine"}
    assert seen["paced"] == 0.5, seen["served_journal"]
    assert "hold (DimmHot): did" in seen["audit"]["out"]
    assert {mask for _, mask in seen["rights"]} == {"0" * 16}


def test_nothing_is_written_outside_the_state_folder(saw: Saw) -> None:
    """Every folder and file of the machine was tried, /proc/sys and /sys too."""
    tried = saw("walls")["tried"]

    assert tried is not None, saw("walls")["journal"]
    assert {path for path in tried["written"] if not path.startswith("/var/lib/steadytok")} == set()
    assert "/var/lib/steadytok" in tried["written"]
    assert tried["kernel_written"] == []


def test_nothing_is_executed_but_our_interpreter(saw: Saw) -> None:
    """Not a shell, not its own file, not through the loader, not from memory; every file of the disk was tried."""
    tried = saw("walls")["tried"]
    # The engine of `listener` is a link to that interpreter.
    allowed = re.compile(
        r"^/run/lab-bin/llama-server$|"
        r"^/usr/bin/python3[.\d]*$|^/usr/local/bin/steadytok$|^/opt/steadytok/|\.so(\.[\d.]+)?$|/ld-[\w.-]+$"
    )

    assert [path for path in tried["executable"] if not allowed.search(path)] == []
    assert tried["executed"].pop("interpreter") == "done"
    assert "done" not in tried["executed"].values(), tried["executed"]


def test_no_device_is_opened(saw: Saw) -> None:
    """Of /dev only what every process has; and none can be made."""
    opened = {path for path, outcome in saw("walls")["tried"]["devices"].items() if outcome == "done"}

    harmless = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts/ptmx"}
    assert opened <= {f"/dev/{name}" for name in harmless}


def test_no_other_process_is_read(saw: Saw) -> None:
    """Other users' processes are not even seen, and systemd can be neither read, signalled nor traced."""
    tried = saw("walls")["tried"]["processes"]

    assert tried.pop("seen") == []
    assert "done" not in tried.values(), tried


def test_only_who_is_configured_is_reached(saw: Saw) -> None:
    """An address that the configuration does not name is out of reach, though it is this very host's."""
    tried = saw("walls")["tried"]["reached"]

    assert (tried.pop("the manager"), tried.pop("this host")) == ("done", "done")
    assert "done" not in tried.values(), tried


def test_the_daemon_has_no_right(saw: Saw) -> None:
    """No capability, none to be had, and no secret of root's."""
    tried = saw("walls")["tried"]["rights"]

    assert {tried.pop(name) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (tried.pop("NoNewPrivs"), tried.pop("Seccomp")) == ("1", "2")
    assert "done" not in tried.values(), tried


def test_a_loop_that_stands_still_is_restarted(saw: Saw) -> None:
    """Only the ticking thread stood still: systemd ends it, the journal says where it stood, the alert goes on."""
    seen = saw("watchdog")

    assert seen["after"]["pid"] != seen["before"]["pid"]
    assert seen["after"]["active_at"] == seen["before"]["active_at"]
    assert "Watchdog timeout" in seen["journal"]
    assert "Fatal Python error: Aborted" in seen["journal"]
    assert re.search(r"File .*agent/commands/run\.py", seen["journal"])


def test_a_kill_loses_no_alert(saw: Saw) -> None:
    """SIGKILL: another life, the same alert, and Alertmanager never heard that it ended."""
    seen = saw("watchdog")

    assert seen["killed"]["pid"] not in (seen["after"]["pid"], seen["before"]["pid"])
    assert seen["killed"]["active_at"] == seen["before"]["active_at"]
    assert len(seen["told"]) == 1


def test_ten_restarts_leave_nothing_behind(saw: Saw) -> None:
    """No process, unit, mount or file more after the tenth stop than after the first; every stop was a good one."""
    seen = saw("restarts")

    assert {(stop["Result"], stop["ExecMainStatus"]) for stop in seen["stops"]} == {("success", "0")}
    assert seen["last"]["processes"] == []
    assert seen["last"] == seen["first"]
    assert seen["state"]["active_at"] == saw("watchdog")["before"]["active_at"]


def test_an_upgrade_keeps_state_and_configuration(saw: Saw) -> None:
    """The new version runs, the edited file is as it was, the alert began when it began."""
    seen = saw("upgrade")

    assert seen["upgrade"]["status"] == 0, seen["upgrade"]
    assert seen["version"] == f"steadytok {service_machine.NEWER}"
    assert seen["build"]["data"]["result"][0]["metric"]["version"] == service_machine.NEWER
    assert seen["config_after"] == EDITED
    assert seen["after"]["active_at"] == seen["before"]["active_at"]
    assert set(seen["state"]) <= set(seen["state_after"])


def test_an_upgrade_that_cannot_be_had_changes_nothing(saw: Saw) -> None:
    """One sentence, the service goes on, and no half-made venv is left."""
    seen = saw("upgrade")

    assert seen["impossible"]["status"] == 1
    assert "No matching distribution found for steadytok==99" in seen["impossible"]["err"]
    assert len(seen["venvs"]) == 2, seen["venvs"]
    assert seen["still"]


def test_after_a_reboot_it_is_there_and_remembers(saw: Saw) -> None:
    """It starts by itself, with its eye, and the alert began when it began."""
    seen = saw("rebooted")

    assert seen["unit"] == {"ActiveState": "active", "NRestarts": "0"}
    assert seen["eyes"]
    assert seen["failed"] == ""
    assert seen["state"]["active_at"] == seen["before"]["active_at"]


def test_taken_away_it_leaves_what_it_knew_and_purged_it_leaves_nothing(saw: Saw) -> None:
    """uninstall keeps configuration and state; --purge leaves no file, user or unit, and then nothing is to do."""
    seen = saw("purge")

    assert seen["uninstall"]["status"] == seen["purge"]["status"] == seen["again"]["status"] == 0, seen
    assert list(seen["kept"].values()) == [True, True, False, False]
    assert (seen["left"], seen["lost"], seen["run"], seen["units"]) == ([], [], [], "")
    assert seen["passwd"][0] == seen["passwd"][1]
    assert "steadytok is not installed here" in seen["again"]["out"]
