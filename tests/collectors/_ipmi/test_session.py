"""Opening a session with a BMC: addresses, credentials, and accounts that must not be locked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from collectors import Host
from collectors._ipmi import session as door
from collectors._ipmi.client import BmcError, LoginRefusedError

SECRET = "tr0ub4dor"


class Lan:
    """A log-in over the LAN whose outcome the test sets."""

    tries = 0
    outcome: Exception | None = None

    def __init__(self, *credentials: object) -> None:
        Lan.tries += 1
        if Lan.outcome is not None:
            raise Lan.outcome

    def ask(self, *_: object) -> tuple[int, bytes]:
        return 0, bytes(11)


@pytest.fixture(name="lan", autouse=True)
def _lan(monkeypatch: pytest.MonkeyPatch) -> type[Lan]:
    monkeypatch.setattr("collectors._ipmi.lan.Lan", Lan)
    Lan.tries, Lan.outcome = 0, None
    return Lan


def write_credentials(folder: Path, text: str = f"username=admin\npassword={SECRET}\n", mode: int = 0o600) -> str:
    path = folder / "credentials"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def open_and_report(host: Host, file: str | None, address: str = "bmc1") -> str:
    """Returns `open`, or the reason why the session could not be opened."""
    bmc = door.open_bmc(host, address, file)
    notes = host.take_notes()
    assert SECRET not in str(notes)
    return "; ".join(note.reason for note in notes) if bmc is None else "open"


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("bmc1", ("bmc1", 623)),
        ("10.0.0.5:9623", ("10.0.0.5", 9623)),
        ("[fe80::1]:623", ("fe80::1", 623)),
        ("fe80::1", ("fe80::1", 623)),
        ("bmc1:", None),
        ("bmc1:0", None),
        ("bmc1:70000", None),
        (":623", None),
        ("", None),
    ],
)
def test_addresses(address: str, endpoint: tuple[str, int] | None) -> None:
    """An address is a host with or without a port, with IPv6 in brackets where it has one."""
    assert door.split_address(address) == endpoint


def test_a_password_may_hold_what_it_likes(tmp_path: Path) -> None:
    """Everything after the first equals sign is the password."""
    file = write_credentials(tmp_path, "username=admin\npassword=a=b c#d\n")
    parsed = door.read_credentials(Host(), file)

    assert parsed is not None
    assert (parsed.user, parsed.password) == ("admin", "a=b c#d")


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [
        (None, 0, "No such file or directory"),
        (f"admin {SECRET}\n", 0o600, "expected two lines, username=… and password=…"),
        (f"username={SECRET}\n", 0o600, "expected two lines, username=… and password=…"),
        (
            f"username=admin\npassword={SECRET}\n",
            0o644,
            "others may read or write the password; chmod 640 it, with root:steadytok-eye for the service",
        ),
    ],
)
def test_a_bad_credentials_file_is_said_without_its_content(
    tmp_path: Path, lan: type[Lan], text: str | None, mode: int, reason: str
) -> None:
    """There is one reason, without the secret, and no log-in is tried."""
    file = str(tmp_path / "none") if text is None else write_credentials(tmp_path, text, mode)

    assert open_and_report(Host(), file) == reason
    assert lan.tries == 0


def test_a_bmc_over_the_lan_needs_credentials(lan: type[Lan]) -> None:
    """The reason names the missing key."""
    assert open_and_report(Host(), None).startswith("needs collectors.ipmi.credentials_file")
    assert open_and_report(Host(), None, "bmc:x").startswith("expected local, HOST or HOST:PORT")
    assert lan.tries == 0


def test_three_refusals_are_enough(tmp_path: Path, lan: type[Lan]) -> None:
    """No fourth log-in is tried, in this process or a later one, until the file changes; then the count restarts."""
    file, cache = write_credentials(tmp_path), tmp_path / "cache"
    lan.outcome = LoginRefusedError("the BMC refused the log-in: Incorrect password provided")
    reasons = [open_and_report(Host("/", cache), file) for _ in range(5)]

    assert lan.tries == 3
    assert reasons[0] == "the BMC refused the log-in: Incorrect password provided (1 of 3 tries)"
    assert reasons[3:] == ["the BMC refused this user and password 3 times; no further try until this file changes"] * 2
    assert SECRET not in "".join(path.read_text() for path in cache.iterdir())

    write_credentials(tmp_path, f"username=admin\npassword=not{SECRET}\n")
    assert open_and_report(Host("/", cache), file).endswith("(1 of 3 tries)")
    lan.outcome = None
    write_credentials(tmp_path)
    assert open_and_report(Host("/", cache), file) == "open"


def test_refusals_are_counted_without_a_cache(tmp_path: Path, lan: type[Lan]) -> None:
    """With an unusable state folder the count is lost between processes, but the account stays safe in this one."""
    file, host = write_credentials(tmp_path), Host("/", tmp_path / "credentials" / "no folder")
    lan.outcome = LoginRefusedError("no")
    for _ in range(5):
        open_and_report(host, file)

    assert lan.tries == 3


def test_silence_is_no_refusal(tmp_path: Path, lan: type[Lan]) -> None:
    """A BMC that does not answer is tried again and again; only a refusal counts."""
    file, host = write_credentials(tmp_path), Host()
    lan.outcome = BmcError("no answer within 6 s")

    assert [open_and_report(host, file) for _ in range(5)] == ["no answer within 6 s"] * 5
    assert lan.tries == 5


def test_a_log_in_forgets_the_refusals_before_it(tmp_path: Path, lan: type[Lan]) -> None:
    """Occasional refusals over months do not add up."""
    file, host = write_credentials(tmp_path), Host()
    for outcome in (LoginRefusedError("no"), LoginRefusedError("no"), None) * 3:
        lan.outcome = outcome
        open_and_report(host, file)

    assert lan.tries == 9


def test_another_bmc_has_its_own_count(tmp_path: Path, lan: type[Lan]) -> None:
    """One BMC's refusals do not count for another."""
    file, host = write_credentials(tmp_path), Host()
    lan.outcome = LoginRefusedError("no")
    for _ in range(4):
        open_and_report(host, file)
    lan.outcome = None

    assert open_and_report(host, file, "bmc2") == "open"


def test_a_host_without_a_bmc_says_nothing(tmp_path: Path) -> None:
    """Without device and address there is no BMC and no note."""
    host = Host(tmp_path)

    assert door.open_bmc(host, "local", None) is None
    assert host.take_notes() == []


@pytest.mark.skipif(os.path.exists("/dev/ipmi0"), reason="this host has a BMC of its own")
def test_this_host_without_a_device_says_nothing() -> None:
    """A live machine without the device has no BMC and no note."""
    host = Host()

    assert door.open_bmc(host, "local", None) is None
    assert host.take_notes() == []
