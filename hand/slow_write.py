"""`python -m hand.slow_write PARENT PATH TEXT`: makes one write that may take long, in a process that can be killed."""

from __future__ import annotations

import os
import sys

from hand.parent_death import end_with_parent


def main() -> int:
    """Returns 0 after the write; else 1, with the kernel's reason on standard error."""
    parent, path, text = sys.argv[1:]
    try:
        end_with_parent(int(parent))
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW)
        os.write(descriptor, text.encode("ascii"))
    except OSError as error:
        sys.stderr.write(error.strerror or str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
