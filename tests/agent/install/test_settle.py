"""Installing the files, keeping edits, and removing it all again."""

from __future__ import annotations

import shutil
import stat
import sys
from pathlib import Path

import pytest

from agent.install import InstallError, InstallTarget, environment, subprocesses
from agent.install.layout import COMMAND, CURRENT, GENERATED, INSTALLED_FILES, OPT, STATE, find_sources
from agent.install.settle import settle
from agent.install.uninstall import remove

VENV = Path(sys.prefix)


def list_files(target: InstallTarget) -> set[str]:
    """Returns everything but folders, as paths of the host."""
    return {f"/{path.relative_to(target.prefix)}" for path in target.prefix.rglob("*") if not path.is_dir()}


@pytest.fixture(scope="module", name="settled_prefix")
def _settle_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installs the venv that runs these tests below a folder; once, since that takes seconds."""
    prefix = tmp_path_factory.mktemp("made") / "host"
    settle(InstallTarget(prefix), VENV)
    return prefix


@pytest.fixture(name="settled")
def _copy_settled(target: InstallTarget, settled_prefix: Path) -> InstallTarget:
    """Returns a copy that the test may change."""
    shutil.copytree(settled_prefix, target.prefix, symlinks=True)
    return target


def test_the_list_is_the_folder() -> None:
    """Every file in systemd/ is installed."""
    assert {path.name for path in find_sources().iterdir()} == {piece.name for piece in INSTALLED_FILES}


def test_everything_has_its_place_and_can_be_read(settled: InstallTarget) -> None:
    """Exactly the listed files, the drop-ins and the command are installed, none writable by others."""
    expected = {piece.path for piece in INSTALLED_FILES} | set(GENERATED) | {COMMAND, CURRENT}

    assert list_files(settled) == expected
    modes = {stat.S_IMODE(settled.resolve(path).stat().st_mode) for path in expected - {COMMAND, CURRENT}}
    assert modes == {0o644}


def test_the_drop_in_names_the_interpreter_and_its_libraries(settled: InstallTarget) -> None:
    """Without these lines NoExecPaths=/ would keep the service from starting."""
    text = settled.resolve(GENERATED[0]).read_text()

    assert f"ExecPaths={Path(sys.executable).resolve()}\n" in text
    assert f"ExecPaths={OPT}\n" in text


def test_once_more_changes_nothing(settled: InstallTarget, capsys: pytest.CaptureFixture[str]) -> None:
    """No file is written a second time."""
    capsys.readouterr()
    settle(settled, VENV)

    assert "write" not in capsys.readouterr().out


def test_an_edited_configuration_stays_and_its_addresses_are_let_through(
    settled: InstallTarget, capsys: pytest.CaptureFixture[str]
) -> None:
    """An edited unit is replaced, an edited configuration is not; its addresses can be reached."""
    config, unit = settled.resolve("/etc/steadytok/steadytok.yml"), settled.resolve(INSTALLED_FILES[0].path)
    config.write_text('engines: [{name: far, url: "http://192.0.2.7:8000"}]\n')
    shipped = unit.read_text()
    unit.write_text("# mine\n")
    capsys.readouterr()
    settle(settled, VENV)

    assert "192.0.2.7" in config.read_text()
    assert f"keep {config}, which has been edited" in capsys.readouterr().out
    assert unit.read_text() == shipped
    assert "IPAddressAllow=192.0.2.7\n" in settled.resolve(GENERATED[1]).read_text()


def test_a_rehearsal_touches_nothing(target: InstallTarget, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run prints the same steps."""
    settle(InstallTarget(target.prefix, is_dry=True), VENV)

    assert not target.prefix.exists()
    assert "would write" in capsys.readouterr().out


def test_another_installers_command_is_left_alone(settled: InstallTarget) -> None:
    """pipx --global puts a link at the same path: it is neither overwritten nor removed."""
    command = settled.resolve(COMMAND)
    command.unlink()
    command.symlink_to("/opt/pipx/venvs/steadytok/bin/steadytok")
    with pytest.raises(InstallError, match="belongs to another installer: move it away"):
        settle(settled, VENV)
    remove(settled, purge=True)

    assert command.is_symlink()


def test_what_was_learnt_and_edited_outlives_the_service_until_a_purge(settled: InstallTarget) -> None:
    """uninstall keeps /etc and the state; --purge leaves no file and no folder of ours."""
    editable_paths = {piece.path for piece in INSTALLED_FILES if piece.is_editable}
    journal = settled.resolve(STATE[0]) / "journal.db"
    journal.parent.mkdir(parents=True)
    journal.touch()
    operator_units = settled.resolve("/etc/systemd/system")
    dropin = operator_units / "steadytok-hand.service.d/override.conf"
    enabled_link = operator_units / "multi-user.target.wants/steadytok-engine@r1.service"
    for path in (dropin, enabled_link):
        path.parent.mkdir(parents=True, exist_ok=True)
    enabled_link.symlink_to("/usr/local/lib/systemd/system/steadytok-engine@.service")
    dropin.touch()
    assert remove(settled, purge=False)
    assert list_files(settled) == {
        *editable_paths,
        f"{STATE[0]}/journal.db",
        "/etc/systemd/system/steadytok-hand.service.d/override.conf",
    }

    assert remove(settled, purge=True)
    assert not list_files(settled)
    assert not [path for path in settled.prefix.rglob("*") if "steadytok" in path.name]
    assert not remove(settled, purge=True)


def test_others_folders_stay(settled: InstallTarget) -> None:
    """A folder with another program's file is not removed."""
    other = settled.resolve("/usr/local/lib/systemd/system/other.service")
    other.touch()
    remove(settled, purge=True)

    assert list_files(settled) == {"/usr/local/lib/systemd/system/other.service"}


class BootedTarget(InstallTarget):
    """A host below a folder whose units can be started."""

    is_live = True


SYSTEMCTL = """\
#!/bin/sh
[ "$1" = restart ] && { echo no luck >&2; exit 1; }
exit 0
"""
OLD_PYTHON = """\
#!/bin/sh
echo "$@" >>{call_log}
readlink {current} >>{call_log}
"""


def test_an_upgrade_that_does_not_start_is_undone_by_the_old_versions_own_code(
    settled: InstallTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old version's units and sandbox are installed again, and `current` points at it."""
    host, call_log = BootedTarget(settled.prefix), tmp_path / "calls"
    old_venv = host.resolve(f"{OPT}/venv-1")
    for name in ("systemctl", "systemd-sysusers", "systemd-tmpfiles", "udevadm"):
        _write_program(tmp_path / "bin" / name, SYSTEMCTL)
    _write_program(old_venv / "bin/python", OLD_PYTHON.format(call_log=call_log, current=host.resolve(CURRENT)))
    environment.switch_current(host, old_venv)
    monkeypatch.setattr(subprocesses, "_PATH", str(tmp_path / "bin"))
    with pytest.raises(InstallError, match="no luck"):
        settle(host, VENV)

    assert call_log.read_text().splitlines() == [f"-I -m agent.install.settle {host.prefix} {old_venv}", old_venv.name]
    assert environment.find_current(host) == old_venv


def _write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_a_configuration_that_cannot_be_used_changes_nothing(settled: InstallTarget) -> None:
    """It is read before any unit of the new version is written."""
    unit = settled.resolve(INSTALLED_FILES[0].path)
    settled.resolve("/etc/steadytok/steadytok.yml").write_text("nonsense: 1\n")
    unit.write_text("# of the version before\n")
    with pytest.raises(InstallError, match="nonsense"):
        settle(settled, VENV)

    assert unit.read_text() == "# of the version before\n"
