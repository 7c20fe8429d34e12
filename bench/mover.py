"""`python -m bench.mover ROOT`: makes a tree move, once a second, in a process whose cost is nobody's."""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path

from bench.tree import HostShape, advance_tree


def main() -> None:
    """Moves the tree until it is told to end, or whoever started it has ended."""
    root, shape, parent = Path(sys.argv[1]), HostShape(), os.getppid()
    for second in itertools.count(1):
        if os.getppid() != parent:
            return
        advance_tree(root, shape, second)
        time.sleep(1.0)


if __name__ == "__main__":
    main()
