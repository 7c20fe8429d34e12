"""`python -m docs`: writes the generated pages; with `--check` says which of them are not current."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from docs import commands, configuration, metrics, rules

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Written by `make docs` from the code; change it there. -->\n\n"


def pages() -> dict[str, str]:
    """Every generated page by the name of its file."""
    made = {
        "configuration.md": configuration.page(),
        "metrics.md": metrics.page(),
        "rules.md": rules.page(),
        "commands.md": commands.page(),
    }
    return {name: NOTE + text for name, text in made.items()}


def stale() -> list[str]:
    """The pages that are not as the code has them."""
    return [name for name, text in pages().items() if not _is(FOLDER / name, text)]


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def main() -> int:
    """Writes or checks; 1 where a check found something."""
    parser = argparse.ArgumentParser(prog="python -m docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is not current")
    if parser.parse_args().check:
        found = stale()
        sys.stderr.write("".join(f"docs/reference/{name} is not current: make docs\n" for name in found))
        return 1 if found else 0
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
