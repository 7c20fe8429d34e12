"""`python -m grafana`: writes the dashboards; with `--check` lists the files that are not current."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from grafana import acts, fleet, healthy, memory, slow

FOLDER = Path(__file__).parent / "dashboards"


def build_dashboards() -> dict[str, dict[str, Any]]:
    """Returns every dashboard by its file name."""
    modules = {"healthy": healthy, "slow": slow, "memory": memory, "acts": acts, "fleet": fleet}
    return {f"steadytok-{name}.json": module.build() for name, module in modules.items()}


def format_json(dashboard: dict[str, Any]) -> str:
    """Returns the text of a dashboard's file."""
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


def find_stale_files() -> list[str]:
    """Returns the files that differ from the code, and the files that no code writes."""
    rendered = {name: format_json(each) for name, each in build_dashboards().items()}
    existing = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    return sorted(name for name in rendered.keys() | existing.keys() if rendered.get(name) != existing.get(name))


def main() -> int:
    """Writes or checks the files; returns 1 when a check finds a stale file."""
    parser = argparse.ArgumentParser(prog="python -m grafana", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is not current")
    check = parser.parse_args().check
    if check:
        stale_files = find_stale_files()
        sys.stderr.write("".join(f"{FOLDER / name} is not current: python -m grafana\n" for name in stale_files))
        return 1 if stale_files else 0
    for name in find_stale_files():
        (FOLDER / name).unlink(missing_ok=True)
    for name, dashboard in build_dashboards().items():
        (FOLDER / name).write_text(format_json(dashboard), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
