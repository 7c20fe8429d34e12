"""
Writes `expected.prom` of the named collectors (of all, without names) from their fixture machines.

    python tests/collectors/regenerate.py meminfo numastat

Read the difference before you keep it: the files of root/ are the evidence, not this output.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script, only this folder is on the path

from test_every_collector import HERE, NAMES, find_root, read_collector, render_exposition  # needs the path above


def main(names: list[str]) -> None:
    """Regenerates each collector's file and prints its number of lines."""
    for name in names or NAMES:
        text = render_exposition(read_collector(name, find_root(name)).samples)
        (HERE / name).mkdir(exist_ok=True)
        (HERE / name / "expected.prom").write_text(text)
        print(f"{name}: {text.count(chr(10))} samples")  # noqa: T201  # the command's output


if __name__ == "__main__":
    main(sys.argv[1:])
