"""The limit of a process's address space (``ulimit -v``), and whether libraries fit within it.

Libraries that do not fit fail badly: OpenBLAS hangs, and LLVM ends the process. fastnn therefore
checks the limit before it imports them. This module does not import NumPy.
"""

import math
import os
import sys
from contextlib import suppress

from fastnn.system import control_groups

# Megabytes of address space that each import takes with two threads (measured), in the order of
# import. More threads take more, so an import that is rejected here would fail.
_LIBRARIES = {"numpy": 140, "sklearn": 270, "numba": 550}


def address_space_left() -> float:
    """Return the bytes of address space that are left to this process, or infinity."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            pages = int((control_groups.PROC / "self" / "statm").read_text().split()[0])
            return float(limit - pages * os.sysconf("SC_PAGE_SIZE"))
    return math.inf


def check_libraries(*names: str) -> None:
    """Raise a MemoryError if libraries that are not imported yet would not fit.

    Parameters
    ----------
    names : {"numpy", "sklearn", "numba"}
        The libraries.
    """
    missing = [name for name in names if name not in sys.modules]
    needed = sum(_LIBRARIES[name] for name in missing)
    if needed and needed * 1e6 > (left := address_space_left()):
        raise MemoryError(
            f"importing {' and '.join(missing)} takes about {needed} MB of address space, but the "
            f"limit (ulimit -v) leaves {max(0, left) / 1e6:.0f} MB: raise the limit"
        )
