"""
Tests the contract of every collector: one generic test for each promise, run for each collector of the folder.

A collector NAME has a folder `tests/collectors/NAME/` beside this file:

    root/            the machine: files as the kernel shows them (links are kept)
    expected.prom    the expected readings, as Prometheus text; `python tests/collectors/regenerate.py NAME` writes it
    config.json      optional: the operator's keys, for a collector with a Config
    may_differ.txt   optional: lines `PATH-GLOB METRIC reason`: this metric may have another value, or go, when that
                     file is damaged

A join (a module with AFTER) gets the Samples of its source collectors by their names, read from its own root/, or
from the root/ of its first source if it has none.
"""

from __future__ import annotations

import fnmatch
import importlib
import json
import math
import os
import pkgutil
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

import collectors
from collectors import EngineAddress, Host, Metric, Sample
from tests.depths import keep_fast

HERE = Path(__file__).parent
NAMES = sorted(module.name for module in pkgutil.iter_modules(collectors.__path__) if not module.name.startswith("_"))
GARBAGE = {
    "empty": b"",
    "binary": bytes(range(256)) * 4,
    "words": b"<unknown>\n",
    "nan": b"nan\n",  # float() takes it
    "underscored": b"1_000\n",  # int() takes it
    "huge": b"1" * (5 << 20),
    "nuls": b"\0" * 64,
    "folder": None,
    "gone": None,
}
UNREADABLE = ("binary", "huge", "folder")  # no file can have this content
BASE_UNIT_SLIPS = re.compile(
    r"_(ms|us|milliseconds|microseconds|minutes|hours|kb|kib|mb|mib|gib|kilobytes|khz|mhz|ghz|megahertz"
    r"|millidegrees?|fahrenheit|percent|microjoules|watt_hours|jiffies|ticks)(_total)?$"
)


class Pass(NamedTuple):
    """The result of one pass: its Samples, and how many readings it and its sources counted as missing."""

    samples: list[Sample]
    missing: int


def read_collector(name: str, root: Path, *, configured: bool = True) -> Pass:
    """Runs one pass of a collector over a machine, with the configuration of its fixture folder or its defaults."""
    module = load_collector(name)
    host = Host(root)
    extra = build_config_arguments(name, configured)
    missing = 0
    if hasattr(module, "AFTER"):
        sources = {source: read_collector(source, root, configured=configured) for source in module.AFTER}
        missing = sum(source.missing for source in sources.values())
        readings = list(module.join({source: done.samples for source, done in sources.items()}, host, *extra))
    else:
        readings = list(module.collect(host, *extra))
    samples = [reading for reading in readings if reading is not None]
    return Pass(samples, missing + len(host.take_notes()) + len(readings) - len(samples))


def find_root(name: str) -> Path:
    """Returns the root folder of a collector's fixture machine."""
    root = HERE / name / "root"
    module = load_collector(name)
    if not root.is_dir() and hasattr(module, "AFTER"):
        return find_root(module.AFTER[0])
    return root


def render_exposition(samples: list[Sample]) -> str:
    """Returns sorted lines `name{labels} value`."""
    return "".join(sorted(f"{line}\n" for line in map(_format_line, samples)))


def load_collector(name: str) -> Any:
    return importlib.import_module(f"collectors.{name}")


def build_config_arguments(name: str, configured: bool) -> list[Any]:
    """Returns the configuration as further arguments: one for a collector with a Config, none for the others."""
    module = load_collector(name)
    if not hasattr(module, "Config"):
        return []
    file = HERE / name / "config.json"
    if not configured or not file.exists():
        return [module.Config()]
    return [msgspec.convert(json.loads(file.read_text()), module.Config)]


def _format_line(sample: Sample) -> str:
    pairs = ",".join(f'{name}="{_escape(value)}"' for name, value in sample.labels)
    value = int(sample.value) if sample.value.is_integer() and abs(sample.value) < 1e15 else sample.value
    return f"{sample.metric.name}{{{pairs}}} {value!r}" if pairs else f"{sample.metric.name} {value!r}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


@cache
def read_expected(name: str) -> tuple[Sample, ...]:
    return tuple(read_collector(name, find_root(name)).samples)


def list_files(root: Path) -> list[str]:
    paths = (Path(folder, file) for folder, _, files in os.walk(root) for file in files)
    return sorted(str(path.relative_to(root)) for path in paths if not path.is_symlink())


@contextmanager
def damage_files(root: Path, files: list[str], kind: str) -> Iterator[None]:
    for file in files:
        (root / file).rename(root / f"{file}.whole")
        if kind == "folder":
            (root / file).mkdir()
        elif (content := GARBAGE[kind]) is not None:
            (root / file).write_bytes(content)
    try:
        yield
    finally:
        for file in files:
            if kind == "folder":
                (root / file).rmdir()
            (root / f"{file}.whole").replace(root / file)


def list_excused(name: str, files: list[str]) -> set[str]:
    list_file = HERE / name / "may_differ.txt"
    lines = [line.split(maxsplit=2) for line in list_file.read_text().splitlines()] if list_file.exists() else []
    return {metric for glob, metric, _reason in lines if any(fnmatch.fnmatch(file, glob) for file in files)}


def _is_expected(sample: Sample, expected: list[Sample], garbage: str) -> bool:
    """True for an expected sample, apart from labels that come from the damaged file."""
    return any(
        sample.metric.name == other.metric.name
        and sample.value == other.value
        and all(dict(other.labels).get(label) == value or value in garbage for label, value in sample.labels)
        for other in expected
    )


def _find_invented(name: str, samples: list[Sample], files: list[str], kind: str) -> list[Sample]:
    expected = list(read_expected(name))
    garbage = (GARBAGE[kind] or b"").decode("utf-8", "ignore")[:100]
    unexpected = [sample for sample in samples if sample not in expected]
    excused = list_excused(name, files)
    candidates = [sample for sample in unexpected if sample.metric.name not in excused]
    return [sample for sample in candidates if not _is_expected(sample, expected, garbage)]


def format_series(samples: list[Sample] | tuple[Sample, ...]) -> set[str]:
    return {_format_line(sample) for sample in samples}


def _find_twins(files: list[str]) -> set[str]:
    """Returns the files whose paths differ only in a number, such as node0/meminfo and node1/meminfo."""
    shapes = Counter(re.sub(r"\d+", "0", file) for file in files)
    return {file for file in files if shapes[re.sub(r"\d+", "0", file)] > 1}


@pytest.fixture(name="copy")
def fixture_copy(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(find_root(name), tmp_path / "root", symlinks=True))


@pytest.mark.parametrize("name", NAMES)
def test_reads_its_machine_as_expected(name: str) -> None:
    """Exactly the values of the fixture's files are read."""
    expected = (HERE / name / "expected.prom").read_text()

    assert render_exposition(read_collector(name, find_root(name)).samples) == expected
    assert expected


@pytest.mark.parametrize("name", NAMES)
def test_is_silent_without_the_hardware(name: str, tmp_path: Path) -> None:
    """An empty machine without a configuration gives no samples, and that is no error."""
    assert read_collector(name, tmp_path, configured=False).samples == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", keep_fast(GARBAGE, "binary", "nan", "gone"))
def test_garbage_is_never_a_reading(name: str, kind: str, copy: Path) -> None:
    """One damaged file, each in turn, gives no value that was not there before."""
    for file in list_files(copy):
        with damage_files(copy, [file], kind):
            samples = read_collector(name, copy).samples

        assert _find_invented(name, samples, [file], kind) == [], file


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", keep_fast(GARBAGE, "binary", "nan", "gone"))
def test_all_garbage_is_never_a_reading(name: str, kind: str, copy: Path) -> None:
    """A machine whose every file is damaged gives no value that was not there before."""
    files = list_files(copy)
    with damage_files(copy, files, kind):
        samples = read_collector(name, copy).samples

    assert _find_invented(name, samples, files, kind) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", keep_fast([kind for kind in GARBAGE if kind != "gone"], "binary"))
def test_a_bad_file_hides_no_more_than_a_missing_one(name: str, kind: str, copy: Path) -> None:
    """All samples that a missing file leaves readable are readable beside a damaged one too."""
    for file in list_files(copy):
        with damage_files(copy, [file], "gone"):
            without = format_series(read_collector(name, copy).samples) & format_series(read_expected(name))
        with damage_files(copy, [file], kind):
            beside = format_series(read_collector(name, copy).samples)

        excused = list_excused(name, [file])
        assert {line for line in without - beside if re.split(r"[{ ]", line)[0] not in excused} == set(), file


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", keep_fast(GARBAGE, "binary", "nan", "gone"))
def test_a_bad_file_never_hides_its_neighbours(name: str, kind: str, copy: Path) -> None:
    """Where a file has a twin (another node, CPU, chip), no metric with several series loses all of them."""
    series_counts = Counter(sample.metric.name for sample in read_expected(name))
    for file in _find_twins(list_files(copy)):
        with damage_files(copy, [file], kind):
            remaining = {sample.metric.name for sample in read_collector(name, copy).samples}
        lost = {metric for metric, count in series_counts.items() if count > 1} - remaining

        assert lost <= list_excused(name, [file]), file


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", keep_fast(GARBAGE.keys() - {"empty", "nuls", "gone"}, "binary"))
def test_what_is_missing_is_counted(name: str, kind: str, copy: Path) -> None:
    """A reading that a damaged file took away leaves a note, or a None in its place."""
    for file in list_files(copy):
        text = (copy / file).read_text().strip()
        if kind not in UNREADABLE and "\n" not in text and not re.fullmatch(r"-?\d+", text):
            continue  # one word may be a valid content of this file: a name, a governor
        with damage_files(copy, [file], kind):
            samples, missing = read_collector(name, copy)

        assert missing > 0 or not format_series(read_expected(name)) - format_series(samples), file


@pytest.mark.parametrize("name", NAMES)
def test_names_pass_the_conventions(name: str) -> None:
    """Prefix, snake_case, base units, `_total` on counters and on nothing else, help that is a sentence."""
    module = load_collector(name)
    metrics: set[Metric] = {*module.METRICS, *(sample.metric for sample in read_expected(name))}

    for metric in metrics:
        assert re.fullmatch(rf"steadytok_{name}_[a-z0-9]+(_[a-z0-9]+)*", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert not metric.name.endswith(("_count", "_sum", "_bucket")), metric.name
        assert BASE_UNIT_SLIPS.search(metric.name) is None, metric.name
        assert re.fullmatch(r"[A-Z/].{15,}\.", metric.help), metric.name
    assert len(metrics) == len({metric.name for metric in metrics}), "one name, one Metric"


@pytest.mark.parametrize("name", NAMES)
def test_series_are_well_formed(name: str) -> None:
    """No series comes twice; labels are sorted, valid and never empty; values are finite floats."""
    samples = read_expected(name)

    assert len({(sample.metric.name, sample.labels) for sample in samples}) == len(samples)
    for sample in samples:
        labels = [label for label, _ in sample.labels]
        assert type(sample.value) is float and math.isfinite(sample.value), sample
        assert labels == sorted(set(labels)), sample
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*", label) for label in labels), sample
        assert not {"job", "instance", "le", "quantile"} & set(labels), sample
        assert all(isinstance(value, str) and value for _, value in sample.labels), sample


@pytest.mark.parametrize("name", NAMES)
def test_a_second_pass_reads_the_same(name: str) -> None:
    """State that a collector keeps between passes changes no value of an unchanged machine."""
    module = load_collector(name)
    if hasattr(module, "AFTER"):
        pytest.skip("a join is a function of its sources' Samples")
    host = Host(find_root(name))
    extra = build_config_arguments(name, configured=True)
    first = [reading for reading in module.collect(host, *extra) if reading is not None]
    second = [reading for reading in module.collect(host, *extra) if reading is not None]

    assert format_series(second) == format_series(first)


@pytest.mark.parametrize("name", NAMES)
def test_optional_constants_keep_the_contract(name: str, tmp_path: Path) -> None:
    """Hints are one sentence, uevents are names of subsystems, and functions of the configuration take its defaults."""
    module = load_collector(name)
    for hint in ("HINT_ABSENT", "HINT_REFUSED"):
        assert re.fullmatch(r"\S.{10,180}[^.\s]", getattr(module, hint, "a sentence of the agent")), hint
    uevents = getattr(module, "UEVENTS", ())
    assert isinstance(uevents, tuple)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", subsystem) for subsystem in uevents)
    if hasattr(module, "with_engines"):
        config = module.with_engines(module.Config(), [EngineAddress("r1", "http://127.0.0.1:8000")])
        assert isinstance(config, module.Config)
        assert [reading for reading in module.collect(Host(tmp_path), config) if reading is None] == []
    assert isinstance(getattr(module, "CONFIG_DOCUMENTED", True), bool)
    if hasattr(module, "explain"):
        assert all(isinstance(line, str) and line for line in module.explain(read_expected(name)))
        assert list(module.explain(())) == []
    if hasattr(module, "sandbox_addresses"):
        assert list(module.sandbox_addresses(module.Config())) == []  # the default configuration connects to no address
