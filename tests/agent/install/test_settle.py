"""Files in their places, edits kept, and all of it taken away again."""

from __future__ import annotations

import shutil
import stat
import sys
from pathlib import Path

import pytest

from agent.install import Target
from agent.install.layout import COMMAND, CURRENT, GENERATED, OPT, PIECES, STATE, sources
from agent.install.removal import remove
from agent.install.settle import settle

VENV = Path(sys.prefix)


def files(target: Target) -> set[str]:
    """Everything that is no folder, as paths of the host."""
    return {f"/{path.relative_to(target.prefix)}" for path in target.prefix.rglob("*") if not path.is_dir()}


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host on which the venv that runs these tests was installed; once, since that takes seconds."""
    prefix = tmp_path_factory.mktemp("made") / "host"
    settle(Target(prefix), VENV)
    return prefix


@pytest.fixture(name="settled")
def _settled(target: Target, made: Path) -> Target:
    """A copy of it to spoil."""
    shutil.copytree(made, target.prefix, symlinks=True)
    return target


def test_the_list_is_the_folder() -> None:
    """Whatever lies in systemd/ is put somewhere."""
    assert {path.name for path in sources().iterdir()} == {piece.name for piece in PIECES}


def test_everything_has_its_place_and_can_be_read(settled: Target) -> None:
    """The files of the list, the drop-ins of this host, a command, and nothing else; none that others may write."""
    expected = {piece.path for piece in PIECES} | set(GENERATED) | {COMMAND, CURRENT}

    assert files(settled) == expected
    modes = {stat.S_IMODE(settled.at(path).stat().st_mode) for path in expected - {COMMAND, CURRENT}}
    assert modes == {0o644}


def test_the_drop_in_names_the_interpreter_and_its_libraries(settled: Target) -> None:
    """Without these lines NoExecPaths=/ would let nothing start."""
    text = settled.at(GENERATED[0]).read_text()

    assert f"ExecPaths={Path(sys.executable).resolve()}\n" in text
    assert f"ExecPaths={OPT}\n" in text


def test_once_more_changes_nothing(settled: Target, capsys: pytest.CaptureFixture[str]) -> None:
    """No file is written a second time."""
    capsys.readouterr()
    settle(settled, VENV)

    assert "write" not in capsys.readouterr().out


def test_an_edited_configuration_stays_and_its_addresses_are_let_through(
    settled: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    """A unit that was edited is replaced, a configuration is not; what it names may be reached."""
    config, unit = settled.at("/etc/steadytok/steadytok.yml"), settled.at(PIECES[0].path)
    config.write_text('engines: [{name: far, url: "http://192.0.2.7:8000"}]\n')
    shipped = unit.read_text()
    unit.write_text("# mine\n")
    capsys.readouterr()
    settle(settled, VENV)

    assert "192.0.2.7" in config.read_text()
    assert f"keep {config}, which has been edited" in capsys.readouterr().out
    assert unit.read_text() == shipped
    assert "IPAddressAllow=192.0.2.7\n" in settled.at(GENERATED[1]).read_text()


def test_a_rehearsal_touches_nothing(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    """It tells the same steps."""
    settle(Target(target.prefix, dry=True), VENV)

    assert not target.prefix.exists()
    assert "would write" in capsys.readouterr().out


def test_what_was_learnt_and_edited_outlives_the_service_until_a_purge(settled: Target) -> None:
    """uninstall keeps /etc and the state; --purge leaves no file and no folder of ours."""
    kept = {piece.path for piece in PIECES if piece.edited}
    journal = settled.at(STATE[0]) / "journal.db"
    journal.parent.mkdir(parents=True)
    journal.touch()
    assert remove(settled, purge=False)
    assert files(settled) == {*kept, f"{STATE[0]}/journal.db"}

    assert remove(settled, purge=True)
    assert not files(settled)
    assert not [path for path in settled.prefix.rglob("*") if "steadytok" in path.name]
    assert not remove(settled, purge=True)


def test_others_folders_stay(settled: Target) -> None:
    """A folder in which somebody else has a file is left alone."""
    other = settled.at("/usr/local/lib/systemd/system/other.service")
    other.touch()
    remove(settled, purge=True)

    assert files(settled) == {"/usr/local/lib/systemd/system/other.service"}
