"""
A virtual machine with a root of its own and systemd: Debian by mmdebstrap, kept in the cache folder.

Kernel, modules and processors are those of machine.py. The packages come from the sources of this host's apt. The root
is never written: QEMU stores the machine's changes in a temporary file, which lasts over its reboots.
"""

from __future__ import annotations

import hashlib
import io
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.bmc import SimulatedBmc, SimulatedSensor
from tests.lab import machine
from tests.lab.machine import LabError, Parts

LIMIT = 3000.0  # seconds, the longest run of the guest: three times that on a quiet host
NEWER, OLDER = "0.1.1", "0.0.9"
BEFORE_THE_ROOMS = "de919472e7b6e68b7db4b9a33f9ee0bdc20ca88a"
"""The last commit before the source was laid out in rooms and renamed."""
HOUSE = Path(__file__).parents[2]
_PROGRAMS = {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "prometheus-alertmanager": "prometheus-alertmanager"}
_PACKAGES = ("systemd-sysv", "udev", "kmod", "python3", "i2c-tools", "iproute2", "passwd")
_FOR_THE_ROOT = ("virtio_pci", "virtio_blk", "ext4", "9pnet_virtio", "9p")
_FOR_THE_GUEST = ("i2c-dev", "i2c-stub", "jc42", "ee1004", "ipmi_si", "ipmi_devintf")
_UNWANTED = ("doc", "man", "locale", "info", "zoneinfo/right", "zoneinfo/posix")
_SIZE = "1600M"
DIMM = f"{machine.SLOT['loc_pfx']} 0"  # QEMU counts the modules of a board
SENSORS = (
    SimulatedSensor("P1-DIMMA0 Temp", 42, instance=0x60, upper=(95, 85, 78)),
    SimulatedSensor("Inlet Temp", 24, entity=0x37, upper=(50, 45, 40)),
    SimulatedSensor("FAN1", 60, type=4, unit=18, entity=29, m=100, lower=(3, 5, 8)),
)
"""The sensors of its BMC: the module of the firmware's table under another name, the air, and a fan."""
_INIT = """#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
for module in $($B cat /order); do $B insmod /lib/$module; done
$B mount -t ext4 -o noatime /dev/vda /mnt
for folder in dev proc sys; do $B mount --move /$folder /mnt/$folder; done
exec $B switch_root /mnt /sbin/init
"""
_LAB_UNIT = """[Unit]
Description=the stages of the lab
[Service]
# Unconfined and in a cgroup of its own, as sudo from a terminal would be.
ExecStartPre=/bin/mkdir -p /run/lab
ExecStartPre=/bin/mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose out /run/lab
ExecStart=/bin/sh -c 'cd /run/lab && exec python3 -u -m tests.lab.guest_service $(cat stages) >>guest.log 2>&1'
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root
[Install]
WantedBy=multi-user.target
"""
_UNITS_LEFT_OUT = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
)


class Image(NamedTuple):
    """A root file system with the initrd and the parts that boot it."""

    root: Path
    initrd: Path
    parts: Parts


def find_missing() -> str | None:
    """Returns a sentence about the programs that this host lacks, or None."""
    lacking = [program for program in _PROGRAMS if machine.which(program) is None]
    if not lacking:
        return machine.find_missing()
    packages = " ".join(sorted({_PROGRAMS[program] for program in lacking}))
    return f"the lab needs {', '.join(lacking)}: apt-get install --no-install-recommends {packages}"


def prepare() -> Image:
    """Returns the root, from the cache folder or made in a minute. Raises LabError."""
    if (sentence := find_missing()) is not None:
        raise LabError(sentence)
    parts = machine.prepare()
    recipe = "\n".join([parts.release, *_PACKAGES, *_FOR_THE_GUEST, *_UNITS_LEFT_OUT, _SIZE, _INIT, _LAB_UNIT])
    done = parts.modules.parent.with_name(f"root-{parts.release}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}")
    if not done.exists():
        with tempfile.TemporaryDirectory(dir=done.parent) as scratch:
            _make(Path(scratch), parts)
            machine.publish(Path(scratch) / "image", done)
            for older in done.parent.glob("root-*"):
                if older != done:
                    shutil.rmtree(older)
    return Image(done / "root.ext4", done / "initrd.gz", parts)


def _make(scratch: Path, parts: Parts) -> None:
    image = scratch / "image"
    image.mkdir()
    modules = machine.order_modules(parts.modules, parts.release, _FOR_THE_ROOT)
    busybox = machine.unpack("busybox-static", scratch) / "bin/busybox"
    machine.make_initrd(image / "initrd.gz", scratch / "initrd", busybox, modules, _INIT)
    _stage_modules(scratch / "stage", parts)
    (scratch / "lab.service").write_text(_LAB_UNIT)
    (scratch / "sources.list").write_text(_sources())
    codename = _codename()
    command = ["mmdebstrap", "--variant=minbase", "--format=null", "--quiet", f"--include={','.join(_PACKAGES)}"]
    command += [f"--aptopt={line}" for line in _apt_options()]
    command += [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in _UNWANTED]
    command += [f"--customize-hook={hook}" for hook in _hooks(scratch, image / "root.ext4")]
    machine.run_command([*command, codename, "/dev/null", str(scratch / "sources.list")])


def _hooks(scratch: Path, root: Path) -> list[str]:
    """Returns the commands that mmdebstrap runs on the complete tree; they end with its file system image."""
    plain = shlex.quote(str(scratch / "plain"))
    return [
        f"copy-in {shlex.quote(str(scratch / 'stage/modules'))} /usr/lib",
        f"copy-in {shlex.quote(str(scratch / 'lab.service'))} /etc/systemd/system",
        'chroot "$1" systemctl --quiet enable lab.service',
        f'chroot "$1" systemctl --quiet mask {" ".join(_UNITS_LEFT_OUT)}',
        'chroot "$1" passwd -q -d root',
        'rm -rf "$1"/var/cache/apt "$1"/var/lib/apt/lists && mkdir -p "$1"/var/lib/apt/lists',
        # The tree through a bind mount, without the /proc and /sys that are mounted in it meanwhile.
        f'mkdir {plain} && mount --bind "$1" {plain} && mke2fs -q -t ext4 -d {plain} {shlex.quote(str(root))} {_SIZE}',
        f"umount {plain}",
    ]


def _stage_modules(stage: Path, parts: Parts) -> None:
    """Copies the few modules that the guest loads itself, in the layout of modprobe."""
    tree = parts.modules / "lib/modules" / parts.release
    for module in machine.order_modules(parts.modules, parts.release, (*_FOR_THE_GUEST, *_FOR_THE_ROOT)):
        target = stage / "lib/modules" / parts.release / module.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(module, target)
    for name in ("modules.builtin", "modules.order"):
        shutil.copy(tree / name, stage / "lib/modules" / parts.release / name)
    machine.run_command(["depmod", "-b", str(stage), parts.release])
    (stage / "lib/modules").rename(stage / "modules")


def _sources() -> str:
    """Returns the sources of Debian's own packages of this host's apt, as lines of a sources.list."""
    form = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    options = ["--format", form, "Created-By: Packages", "Origin: Debian"]
    lines = sorted(set(machine.run_command(["apt-get", "indextargets", *options]).splitlines()))
    if not lines:
        raise LabError("apt knows no source of Debian's packages: the lab needs its package lists (apt-get update)")
    return "\n".join(lines) + "\n"


def _apt_options() -> list[str]:
    """Returns the options with which this host's apt reaches its sources: proxies, certificates, checks of age."""
    prefixes = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Languages")
    return [line for line in machine.run_command(["apt-config", "dump"]).splitlines() if line.startswith(prefixes)]


def _codename() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    raise LabError("this is no release of Debian: /etc/os-release has no VERSION_CODENAME")


def find_missing_history() -> str | None:
    """Returns a sentence if this clone lacks the version before the rooms, else None."""
    command = ["git", "cat-file", "-e", f"{BEFORE_THE_ROOMS}^{{commit}}"]
    if subprocess.run(command, cwd=HOUSE, capture_output=True, check=False).returncode == 0:
        return None
    return f"the clone is shallow, without {BEFORE_THE_ROOMS[:10]}: git fetch --unshallow"


def build_wheels(folder: Path) -> None:
    """
    Builds our wheel, of this checkout, and downloads the wheels that it needs.

    The pip of this environment must reach an index; the guest reaches nothing.
    """
    machine.run_command([*_pip_wheel(folder), str(HOUSE), "pip"])


def build_version(folder: Path, version: str, revision: str | None = None) -> None:
    """Builds our wheel alone under another version number, of this checkout or of a revision of it."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "steadytok"
        if revision is None:
            _copy_checkout(copy)
        else:
            _unpack_revision(copy, revision)
        project = (copy / "pyproject.toml").read_text()
        (copy / "pyproject.toml").write_text(project.replace('version = "0.1.0"', f'version = "{version}"', 1))
        machine.run_command([*_pip_wheel(folder), "--no-deps", str(copy)])


def _pip_wheel(folder: Path) -> list[str]:
    return [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "-w", str(folder)]


def _copy_checkout(target: Path) -> None:
    names = subprocess.run(["git", "ls-files"], cwd=HOUSE, capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        if not name.startswith("tests/") and (HOUSE / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(HOUSE / name, target / name)


def _unpack_revision(target: Path, revision: str) -> None:
    command = ["git", "archive", revision, "--", ".", ":(exclude)tests"]
    archive = subprocess.run(command, cwd=HOUSE, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(target, filter="data")


def install_packages(folder: Path, wheels: Path, *requirements: str) -> None:
    """Installs packages into a folder, as `python3 -m venv` and `pip install` would into a user's environment."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(folder)]
    machine.run_command([*pip, "--no-index", "--find-links", str(wheels), *requirements])


def furnish(out: Path, stages: Sequence[str] = ()) -> None:
    """Fills the guest's /run/lab: its program, wheels of three versions, and an Alertmanager."""
    out.mkdir(parents=True, exist_ok=True)
    build_wheels(out / "wheels")
    build_version(out / "newer", NEWER)
    install_packages(out / "site", out / "wheels", "pip", "steadytok")
    if find_missing_history() is None:
        build_version(out / "old", OLDER, BEFORE_THE_ROOMS)
        install_packages(out / "old-site", out / "old", "--no-deps", "steadytok")  # imported before out/site
    (out / "tests/lab").mkdir(parents=True)
    for path in (HOUSE / "tests/lab").glob("guest_*.py"):
        shutil.copy(path, out / "tests/lab" / path.name)
    (out / "stages").write_text(" ".join(stages))
    alertmanager = machine.which("prometheus-alertmanager")
    assert alertmanager is not None  # `find_missing` has checked
    shutil.copy(alertmanager, out / "alertmanager")
    # Debian's build reads its templates from this folder alone.
    shutil.copytree("/usr/share/prometheus/alertmanager", out / "templates")


def run(image: Image, out: Path) -> None:
    """
    Boots the guest, and returns when it is off; `out` is its /run/lab. Raises LabError.

    Its BMC is OpenIPMI's simulator on this host.
    """
    with SimulatedBmc(out / "bmc", SENSORS, in_band=True) as bmc:
        _run(image, out, bmc)


def _run(image: Image, out: Path, bmc: SimulatedBmc) -> None:
    began, command = time.monotonic(), _command(image, out, bmc.serial_port)
    with (out / "qemu.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        while process.poll() is None and time.monotonic() - began < LIMIT:
            time.sleep(0.5)
    finally:
        process.kill()
        process.wait(10)
    if not (out / "done").exists():
        tails = "\n".join(machine.read_tail(out / name) for name in ("console", "qemu.log", "guest.log"))
        raise LabError(f"the guest did not finish\n{tails}")


def _command(image: Image, out: Path, bmc: int | None) -> list[str]:
    command = machine.build_processor_options(image.parts, machine.TWO_NODES)
    command += machine.build_board_options(bmc)
    command += ["-drive", f"file={image.root},format=raw,if=virtio,snapshot=on,discard=unmap"]
    command += ["-virtfs", f"local,path={out},mount_tag=out,security_model=none,multidevs=remap"]
    # No -no-reboot: after the reboot the machine has the disk of before.
    command += ["-nic", "none", "-display", "none", "-monitor", "none"]
    command += ["-serial", f"file:{out / 'console'}", "-kernel", str(image.parts.kernel), "-initrd", str(image.initrd)]
    return [*command, "-append", "console=ttyS0 quiet mitigations=off panic=-1 systemd.show_status=no loglevel=4"]


if __name__ == "__main__":
    try:
        image = prepare()
        sys.stdout.write(f"{image}\n")
        if len(sys.argv) > 1:  # by hand: the guest's folder, and the stages to run (all without)
            furnish(Path(sys.argv[1]), sys.argv[2:])
            run(image, Path(sys.argv[1]))
    except LabError as error:
        sys.exit(str(error))
