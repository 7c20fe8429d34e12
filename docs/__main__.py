"""`python -m docs`: writes the generated pages; with `--check` lists the pages that are not current."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from docs import actions, commands, configuration, metrics, rules

FOLDER = Path(__file__).parent
NOTE = "<!-- Written by `make docs` from the code; change it there. -->\n\n"


def render_pages() -> dict[str, str]:
    """Returns every generated page by its path in docs/."""
    references = {
        "reference/configuration.md": configuration.render_page(),
        "reference/metrics.md": metrics.render_page(),
        "reference/rules.md": rules.render_page(),
        "reference/commands.md": commands.render_page(),
    }
    pages = {name: NOTE + text for name, text in references.items()}
    return {**pages, "actions.md": actions.render_page((FOLDER / "actions.md").read_text(encoding="utf-8"))}


def find_stale_pages() -> list[str]:
    """Returns the paths of the pages that differ from the code."""
    return [name for name, text in render_pages().items() if not _is_current(FOLDER / name, text)]


def _is_current(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def main() -> int:
    """Writes or checks the pages; returns 1 when a check finds a stale page."""
    parser = argparse.ArgumentParser(prog="python -m docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is not current")
    if parser.parse_args().check:
        stale_pages = find_stale_pages()
        sys.stderr.write("".join(f"docs/{name} is not current: make docs\n" for name in stale_pages))
        return 1 if stale_pages else 0
    for name, text in render_pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
