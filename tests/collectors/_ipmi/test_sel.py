"""The BMC's event log: entries about memory, counted once, across clears and overwrites."""

from __future__ import annotations

import logging

import pytest

from bench.bmc import make_dimm_sensors, make_other_sensors
from collectors._ipmi.client import IpmiRequest
from tests.collectors._ipmi.scripted_session import Begin
from tests.scripted_bmc import ScriptedBmc

ECC, THROTTLED, TOO_HOT = bytes.fromhex("0c516f2000 07"), bytes.fromhex("0c516f29ff03"), bytes.fromhex("010101594e55")


def test_entries_about_memory_are_counted_from_now_on(begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    """Counters start at 0, whatever the log holds; each new entry is counted and logged once."""
    bmc = ScriptedBmc(make_dimm_sensors(2))
    bmc.add_events(ECC, ECC, THROTTLED)
    session = begin(bmc)
    first = session.read_values()

    assert {value for name, value in first.items() if name.startswith("memory_events")} == {0.0}
    assert first["sel_entries"] == 3.0

    bmc.add_events(ECC, THROTTLED, TOO_HOT)
    with caplog.at_level(logging.WARNING):
        second = session.read_values()
    assert second["memory_events_total correctable_ecc"] == 1.0
    assert second["memory_events_total throttled"] == 1.0
    assert second["memory_events_total over_temperature"] == 1.0
    assert session.read_values() == second
    assert caplog.messages == [
        "BMC: event log: memory correctable_ecc on sensor 0x51, module 7, entry 4",
        "BMC: event log: memory throttled on sensor 0x51, module 3, entry 5",
        "BMC: event log: memory over_temperature on DIMMA1 Temp (0x01), entry 6",
    ]


def test_a_log_that_stands_still_costs_one_request(begin: Begin) -> None:
    """Entries are read only where the log's own stamp or count has changed."""
    bmc = ScriptedBmc(make_dimm_sensors(1))
    bmc.add_events(ECC)
    session = begin(bmc)
    session.read_values()
    bmc.clear_requests()
    session.read_values()

    assert (bmc.count(IpmiRequest.GET_SEL_INFO), bmc.count(IpmiRequest.GET_SEL_ENTRY)) == (1, 0)


def test_a_cleared_log_is_recognised(begin: Begin) -> None:
    """After an erase all entries are new, though their numbers begin again; the counters continue."""
    bmc = ScriptedBmc(make_dimm_sensors(1))
    bmc.add_events(ECC, ECC, ECC)
    session = begin(bmc)
    session.read_values()
    bmc.log.clear()
    bmc.erased_at = 2000
    bmc.add_events(ECC, ECC, ECC, ECC)

    assert session.read_values()["memory_events_total correctable_ecc"] == 4.0

    bmc.log.clear()
    bmc.erased_at = 3000
    assert session.read_values()["memory_events_total correctable_ecc"] == 4.0


def test_a_full_log_that_writes_over_its_oldest_is_followed(begin: Begin) -> None:
    """Where the last entry vanished without an erase, all present entries are new."""
    bmc = ScriptedBmc(make_dimm_sensors(1))
    bmc.add_events(ECC)
    session = begin(bmc)
    session.read_values()
    bmc.add_events(ECC, ECC, ECC)
    del bmc.log[:2]

    assert session.read_values()["memory_events_total correctable_ecc"] == 2.0


def test_many_entries_take_several_passes(begin: Begin) -> None:
    """A burst of entries is read in pieces, and no sensor waits for it."""
    bmc = ScriptedBmc(make_dimm_sensors(1))
    session = begin(bmc)
    session.read_values()
    bmc.add_events(*[ECC] * 150)

    assert [session.read_values()["memory_events_total correctable_ecc"] for _ in range(4)] == [
        64.0,
        128.0,
        150.0,
        150.0,
    ]


def test_what_is_no_memory_event_is_not_counted(begin: Begin) -> None:
    """A deassertion, a hot processor, a presence, and a vendor's own kind of entry are not counted."""
    bmc = ScriptedBmc([*make_dimm_sensors(1), *make_other_sensors()])
    session = begin(bmc)
    session.read_values()
    bmc.add_events(bytes.fromhex("0c51ef2000ff"), bytes.fromhex("010201594e55"), bytes.fromhex("0c516f06ffff"))
    bmc.log.append(bytes((4, 0, 0xC0)) + bytes(13))

    assert {value for name, value in session.read_values().items() if name.startswith("memory_events")} == {0.0}


def test_a_bmc_without_a_log_has_no_counters(begin: Begin) -> None:
    """A BMC may lack the log by its device id, or lack the command: its sensors are read all the same."""
    bmc = ScriptedBmc(make_dimm_sensors(1))
    bmc.identity = bmc.identity[:5] + b"\x03" + bmc.identity[6:]
    values = begin(bmc).read_values()

    assert values["temperature DIMMA1 Temp"] == 42.0
    assert not [name for name in values if name.startswith(("memory", "sel"))]

    bmc = ScriptedBmc(make_dimm_sensors(1))
    bmc.answers[IpmiRequest.GET_SEL_INFO] = lambda data: (0xC1, b"")
    session = begin(bmc)
    assert session.read_values()["temperature DIMMA1 Temp"] == 42.0
    assert session.take_reasons() == ["Get sel info was answered with code 0xC1"]
