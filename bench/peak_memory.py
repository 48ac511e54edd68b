"""Run a command and print its peak memory in bytes: ``python peak_memory.py COMMAND...``.

A separate process, because on Linux a child's peak starts with that of its parent. This small
process does not change the result; pytest with its arrays would.
"""

import subprocess
import sys


def main() -> int:
    """Run the command of the command line; return its exit code."""
    import resource  # not on Windows, where this module must still import

    code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(peak if sys.platform == "darwin" else peak * 1024)  # Linux counts in KiB
    return code


if __name__ == "__main__":
    sys.exit(main())
