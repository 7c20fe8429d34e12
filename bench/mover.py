"""`python -m bench.mover ROOT`: advances a tree once a second, in a process that is not measured."""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path

from bench.tree import HostShape, advance_tree


def main() -> None:
    """Advances the tree until a signal, or until the parent process has ended."""
    root, shape, parent = Path(sys.argv[1]), HostShape(), os.getppid()
    for second in itertools.count(1):
        if os.getppid() != parent:
            return
        advance_tree(root, shape, second)
        time.sleep(1.0)


if __name__ == "__main__":
    main()
