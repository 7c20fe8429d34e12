"""
A virtual machine of two or eight NUMA nodes with Debian's kernel, in software emulation; its root is this host's.

`python -m tests.lab.machine` prepares it, or prints the missing programs. It is emulated so that it also runs without
/dev/kvm. The kernel and the small files made from it are kept in the user's cache folder.
https://www.qemu.org/docs/master/system/invocation.html, https://wiki.qemu.org/Documentation/9psetup
"""

from __future__ import annotations

import gzip
import itertools
import lzma
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Shape(NamedTuple):
    """
    The nodes of a machine: their CPUs as QEMU has them, their memory in MiB, and the guest's time limit in seconds.

    `movable` MiB of each node have no memory of the kernel's own, so that a block of 128 can be taken offline.
    """

    cpus: tuple[str, ...]
    memory: tuple[int, ...]
    limit: float
    movable: int = 0


# With more than 2 GiB in all, software emulation has hung in early boot.
TWO_NODES = Shape(("0-1", "2-3"), (1024, 768), 2700.0, movable=160)
EIGHT_NODES = Shape(tuple(map(str, range(8))), (512, *[216] * 7), 600.0)
DISTANCE = 21  # from one node to the other
EARLY = 120.0  # seconds until the guest's own script must begin; a boot that hangs is tried once more

_HOUSE = Path(__file__).parents[2]
SLOT = {"loc_pfx": "P1-DIMMA", "bank": "P0 CHANNEL A", "manufacturer": "Lab", "serial": "3A2B1C0E", "part": "LAB-4711"}
"""The one memory module in the firmware's table."""
_FILES = 2  # raise it when the files in the cache folder change
_PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "iasl": "acpica-tools",
    "cpio": "cpio",
    "modprobe": "kmod",
    "depmod": "kmod",
    "i2cset": "i2c-tools",
    "ipmi_sim": "openipmi",
    "ipmitool": "ipmitool",
    "numactl": "numactl",
    "dpkg-deb": "dpkg",
    "apt-get": "apt",
}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FOR_THE_ROOT = ("virtio_pci", "9pnet_virtio", "9p")
_INIT = """#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
for module in $($B cat /order); do $B insmod /lib/$module; done
$B mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=524288,cache=loose root /mnt
for folder in dev proc sys; do $B mount --bind /$folder /mnt/$folder; done
$B mount -t tmpfs run /mnt/run
$B mkdir /mnt/run/out
$B mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288 out /mnt/run/out
$B ifconfig lo up
$B chroot /mnt /bin/sh /run/out/start
$B poweroff -f
"""
_SCOPE = """
    External (\\_SB.CPUS.C00{cpu}, DeviceObj)
    Scope (\\_SB.CPUS.C00{cpu})
    {{
        Name (_PCT, Package (2) {{
            ResourceTemplate () {{ Register (SystemIO, 8, 0, 0x5F8) }},
            ResourceTemplate () {{ Register (SystemIO, 8, 0, 0x5F9) }} }})
        Name (_PSS, Package (3) {{
            Package (6) {{ 3200, 100000, 10, 10, 0x00, 0x00 }},
            Package (6) {{ 2400, 70000, 10, 10, 0x01, 0x01 }},
            Package (6) {{ 1200, 30000, 10, 10, 0x02, 0x02 }} }})
        Name (_PPC, 0)
    }}
"""


class LabError(Exception):
    """The machine cannot be prepared or did not finish; the message is one sentence, then the evidence."""


class Parts(NamedTuple):
    """The files that a boot needs; `modules` is the folder with lib/modules, for modprobe -d."""

    kernel: Path
    release: str
    initrd: Path
    table: Path
    modules: Path


def find_missing() -> str | None:
    """Returns a sentence about what this host lacks for the lab, or None."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"the lab needs Linux on x86_64, and this is {sys.platform} on {platform.machine()}"
    lacking = [program for program in _PROGRAMS if which(program) is None]
    if not lacking:
        return None
    packages = " ".join(sorted({_PROGRAMS[program] for program in lacking}))
    return f"the lab needs {', '.join(lacking)}: apt-get install --no-install-recommends {packages}"


def prepare(cache: Path | None = None) -> Parts:
    """Returns the machine's parts, from the cache folder or newly made; needs no root. Raises LabError."""
    if (sentence := find_missing()) is not None:
        raise LabError(sentence)
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steadytok-lab"
    image = _image()
    done = cache / f"{image}-{_FILES}"
    if not done.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            _make(Path(scratch), image)
            publish(Path(scratch) / "parts", done)
    (kernel,) = (done / "tree/boot").glob("vmlinuz-*")
    release = kernel.name.removeprefix("vmlinuz-")
    return Parts(kernel, release, done / "initrd.gz", done / "ssdt.aml", done / "tree")


def publish(folder: Path, done: Path) -> None:
    """Moves a folder into the cache, whole or not at all; another run may have made the same one meanwhile."""
    try:
        folder.rename(done)
    except OSError:
        if not done.exists():
            raise


def run(
    parts: Parts, module: str, out: Path, *arguments: str, shape: Shape = TWO_NODES, bmc: int | None = None
) -> None:
    """
    Boots, runs `python -m module` of this checkout in the guest, and returns when the machine is off.

    `bmc` is the port of OpenIPMI's simulator for the guest's KCS interface.

    `out` is /run/out in the guest, which may write there; it must make the file `started` at once and `done` at the
    end. Raises LabError with the console's last lines.
    """
    command = shlex.join([sys.executable, "-m", module, *arguments])
    out.mkdir(parents=True, exist_ok=True)
    environment = f"PATH={_PATH} HOME=/run LAB_MODULES={shlex.quote(str(parts.modules))}"
    start = f"cd {shlex.quote(str(_HOUSE))} && exec env {environment} {command} >/run/out/guest.log 2>&1\n"
    (out / "start").write_text(start)
    _compile_checkout()
    for attempt in (1, 2):
        _boot(parts, out, shape, bmc)
        if (out / "done").exists():
            return
        if (out / "started").exists() or attempt == 2:
            raise LabError(f"the guest did not finish\n{read_tail(out / 'console')}\n{read_tail(out / 'guest.log')}")


def _compile_checkout() -> None:
    """Compiles the checkout, since its guests cannot write there: each process would compile it in emulation."""
    folders = [str(_HOUSE / name) for name in ("agent", "collectors", "engine", "hand", "rules", "tests/lab")]
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-j", "0", *folders], capture_output=True, check=False)


def _boot(parts: Parts, out: Path, shape: Shape, bmc: int | None) -> None:
    began = time.monotonic()
    with (out / "qemu.log").open("wb") as log:
        process = subprocess.Popen(_command(parts, out, shape, bmc), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        while process.poll() is None:
            lasted = time.monotonic() - began
            if lasted > shape.limit or (lasted > EARLY and not (out / "started").exists()):
                return
            time.sleep(0.2)
    finally:
        process.kill()
        process.wait(10)
    if process.returncode != 0:
        raise LabError(f"QEMU ended with status {process.returncode}\n{read_tail(out / 'qemu.log')}")


def _command(parts: Parts, out: Path, shape: Shape, bmc: int | None) -> list[str]:
    command = build_processor_options(parts, shape)
    share = "security_model=none,multidevs=remap"
    command += ["-virtfs", f"local,path=/,mount_tag=root,{share},readonly=on"]
    command += ["-virtfs", f"local,path={out},mount_tag=out,{share}"]
    command += build_board_options(bmc)
    command += ["-nic", "none", "-display", "none", "-monitor", "none", "-no-reboot"]
    command += ["-serial", f"file:{out / 'console'}", "-kernel", str(parts.kernel), "-initrd", str(parts.initrd)]
    movable = f"movablecore={shape.movable * len(shape.memory)}M"
    return [*command, "-append", f"console=ttyS0 quiet mitigations=off panic=-1 {movable}"]


def build_processor_options(parts: Parts, shape: Shape) -> list[str]:
    """Returns the command of QEMU with the processors and the memory of a shape."""
    # acpi-cpufreq refuses QEMU's own family of AMD processors; five-level page tables only make emulation slower.
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi"]
    command += ["-cpu", "max,vendor=GenuineIntel,family=6,model=85,la57=off"]
    count = 1 + max(int(cpus.split("-")[-1]) for cpus in shape.cpus)
    command += ["-m", str(sum(shape.memory)), "-smp", str(count), "-acpitable", f"file={parts.table}"]
    for node, (cpus, memory) in enumerate(zip(shape.cpus, shape.memory, strict=True)):
        command += ["-object", f"memory-backend-ram,id=m{node},size={memory}M"]
        command += ["-numa", f"node,nodeid={node},cpus={cpus},memdev=m{node}"]
    for node, other in itertools.permutations(range(len(shape.cpus)), 2):
        command += ["-numa", f"dist,src={node},dst={other},val={DISTANCE}"]
    return command


def build_board_options(bmc: int | None) -> list[str]:
    """Returns the options for the memory module in the firmware's table, and for a BMC on that port."""
    slot = ",".join(f"{key}={value}" for key, value in SLOT.items())
    command = ["-smbios", f"type=17,{slot}"]
    if bmc is not None:
        command += ["-chardev", f"socket,id=ipmi0,host=127.0.0.1,port={bmc},reconnect=2"]
        command += ["-device", "ipmi-bmc-extern,chardev=ipmi0,id=bmc0", "-device", "isa-ipmi-kcs,bmc=bmc0"]
    return command


def _image() -> str:
    depends = run_command(["apt-cache", "depends", "linux-image-amd64"]).splitlines()
    images = [line.split()[-1] for line in depends if "Depends: linux-image-" in line]
    if not images:
        raise LabError("apt knows no linux-image-amd64: the lab needs Debian's package lists (apt-get update)")
    return images[0]


def _make(scratch: Path, image: str) -> None:
    parts = scratch / "parts"
    parts.mkdir()
    tree = unpack(image, scratch).rename(parts / "tree")
    busybox = unpack("busybox-static", scratch)
    (release,) = (folder.name for folder in (tree / "lib/modules").iterdir())
    run_command(["depmod", "-b", str(tree), release])
    make_initrd(parts / "initrd.gz", scratch / "initrd", busybox / "bin/busybox", order_modules(tree, release))
    scopes = "".join(_SCOPE.format(cpu=cpu) for cpu in range(4))
    (parts / "ssdt.asl").write_text(f'DefinitionBlock ("", "SSDT", 2, "STEADY", "CPUFREQ", 1)\n{{{scopes}}}\n')
    run_command(["iasl", "-p", str(parts / "ssdt"), str(parts / "ssdt.asl")])


def unpack(name: str, scratch: Path) -> Path:
    """Returns the folder with the files of a package of Debian's."""
    run_command(["apt-get", "download", name], scratch)
    (package,) = scratch.glob(f"{name}_*.deb")
    run_command(["dpkg-deb", "-x", str(package), str(scratch / name)])
    return scratch / name


def order_modules(tree: Path, release: str, names: Sequence[str] = _FOR_THE_ROOT) -> list[Path]:
    """Returns modules with their dependencies in load order; by default those that reach the root."""
    order: dict[Path, None] = {}
    for module in names:
        lines = run_command(["modprobe", "-d", str(tree), "-S", release, "--show-depends", module])
        for line in lines.splitlines():
            if line.startswith("insmod "):
                order[Path(line.split()[1])] = None
    return list(order)


def make_initrd(initrd: Path, folder: Path, busybox: Path, modules: Sequence[Path], init: str = _INIT) -> None:
    """Packs busybox, these modules and the first script into an initrd."""
    for name in ("bin", "proc", "sys", "dev", "mnt", "lib"):
        (folder / name).mkdir(parents=True)
    shutil.copy(busybox, folder / "bin/busybox")
    for module in modules:
        packed = module.suffix == ".xz"
        text = lzma.decompress(module.read_bytes()) if packed else module.read_bytes()
        (folder / "lib" / module.name.removesuffix(".xz")).write_bytes(text)
    (folder / "order").write_text("".join(f"{module.name.removesuffix('.xz')}\n" for module in modules))
    (folder / "init").write_text(init)
    (folder / "init").chmod(0o755)
    names = "\n".join(sorted(str(path.relative_to(folder)) for path in folder.rglob("*")))
    packed_folder = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], input=names.encode(), cwd=folder, capture_output=True, check=True
    )
    initrd.write_bytes(gzip.compress(packed_folder.stdout, 1))


def which(program: str) -> str | None:
    """Returns the path of a program, or None."""
    # Debian has modprobe and i2cset in folders that are only on root's path.
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def run_command(command: Sequence[str], folder: Path | None = None) -> str:
    """Returns the output of a program. Raises LabError with its last lines if it fails."""
    path = which(command[0]) or command[0]
    result = subprocess.run([path, *command[1:]], cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = (result.stderr or result.stdout).strip()[-500:]
        raise LabError(f"`{shlex.join(command)}` ended with status {result.returncode}: {reason}")
    return result.stdout


def read_tail(path: Path) -> str:
    """Returns the end of a file, under its name."""
    text = path.read_text(errors="replace") if path.exists() else "(nothing)"
    return f"--- {path.name}\n{text[-3000:]}"


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{prepare()}\n")
    except LabError as error:
        sys.exit(str(error))
