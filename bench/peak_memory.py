"""Run a command and print its peak memory in bytes: ``python peak_memory.py COMMAND...``.

A process of its own, because on Linux a child's peak begins with that of the process that starts
it: next to this small one it does not count, next to a pytest full of arrays it would.
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
