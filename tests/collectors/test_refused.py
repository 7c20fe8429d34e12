"""Kernel files that this user may not read: refused with a note, in a process that really lacks the right."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
NOBODY = 65534
FOLDER = "sys/class/powercap"
# The imports come first: the user without rights may not be able to read this code either.
READ_WITHOUT_RIGHTS = f"""
import json, os, sys
from agent.sampling.sampler import collect_readings
from collectors import Host, powercap

root, refused = sys.argv[1:]
if os.geteuid() == 0:
    try:
        os.setgroups([])
        os.setgid({NOBODY})
        os.setuid({NOBODY})
    except OSError as error:
        sys.exit(f"cannot become nobody: {{error}}")
if not os.access(root, os.X_OK):
    sys.exit("the folder for temporary files is closed to nobody")
if os.access(os.path.join(root, refused), os.R_OK):
    sys.exit("this process may read everything")
host = Host(root)
done = collect_readings("powercap", lambda: powercap.collect(host), host, 0.0)
series = {{dict(sample.labels)["zone"]: sample.value for sample in done.samples}}
print(json.dumps({{"outcome": done.outcome.value, "error": done.error, "series": series, "notes": done.notes}}))
"""


@pytest.fixture(name="root")
def _root() -> Iterator[Path]:
    """A machine of two packages in a folder that others may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for package in (0, 1):
            zone = root / FOLDER / f"intel-rapl:{package}"
            zone.mkdir(parents=True)
            (zone / "name").write_text(f"package-{package}\n")
            (zone / "energy_uj").write_text("123456789\n")
            (zone / "max_energy_range_uj").write_text("262143328850\n")
        root.chmod(0o755)
        yield root


def _read(root: Path, *refused: str) -> dict[str, object]:
    for file in refused:
        (root / file).chmod(0)
    done = subprocess.run(
        [sys.executable, "-c", READ_WITHOUT_RIGHTS, str(root), refused[0]],
        cwd=HOUSE,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    if done.returncode == 1 and "Traceback" not in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_energy_that_only_root_may_read_is_refused_and_not_failed(root: Path) -> None:
    """Since Linux 5.10 energy_uj belongs to root: each zone has a note, and the collector has not failed."""
    files = [f"{FOLDER}/intel-rapl:{package}/energy_uj" for package in (0, 1)]
    answer = _read(root, *files)

    assert answer["outcome"] == "refused"
    assert answer["notes"] == [[file, "Permission denied"] for file in files]
    assert (answer["series"], answer["error"]) == ({}, None)


def test_one_refused_zone_hides_no_other(root: Path) -> None:
    """A readable zone is read beside a refused one."""
    answer = _read(root, f"{FOLDER}/intel-rapl:0/energy_uj")

    assert answer["series"] == {"intel-rapl:1": 123.456789}
    assert answer["outcome"] == "ok"
    assert answer["notes"] == [[f"{FOLDER}/intel-rapl:0/energy_uj", "Permission denied"]]
