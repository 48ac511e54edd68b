"""Whether there is memory for what is about to be done, asked before anything is changed.

Linux promises memory that it does not have and ends the process that comes to use it, without a
word. So what will be used is counted beforehand: numbers of the network's own size, and of the
rows'; what is as small as `_NEVER_MISSED` is not asked about.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from itertools import starmap
from pathlib import Path

import numpy as np

from fastnn.system.address_space import address_space_left
from fastnn.system.control_groups import PROC, control_groups

_NEVER_MISSED = 1 << 24  # bytes
FLOAT_BYTES = 4
_COMPILER = 280 << 20  # bytes of address space, from 337 MB to where all was fine


def check_copy(name: str, numbers: int, each: int = FLOAT_BYTES) -> None:
    """Raise a MemoryError if there is no room for a copy of so many numbers of so many bytes."""
    needs = numbers * each
    if needs > _NEVER_MISSED:
        check_memory(name, {"a copy": needs}, "float32 rows in C order are not copied")


def check_compiler() -> None:
    """Raise a MemoryError if there is no room to compile: LLVM would end the process."""
    check_memory("compiling", {"the compiler": _COMPILER}, "the engine 'numpy' compiles nothing")


def empty_predictions(rows: int, outputs: int) -> np.ndarray:
    """Return room for predictions (rows, outputs) float32, or raise a MemoryError."""
    needs = rows * outputs * FLOAT_BYTES
    if needs > _NEVER_MISSED:
        check_memory("prediction", {"predictions": needs}, "fewer rows at a time need less")
    return np.empty((rows, outputs), np.float32)


def available_memory() -> float:
    """Return the bytes that this process can still have; infinity where the system tells nothing.

    That is the least of what the machine has left, swap included, what the control groups of the
    process allow, and what its limit of address space does.
    """
    return max(0.0, min(_of_machine(), _of_groups(), address_space_left()))


def check_memory(what: str, needs: Mapping[str, int], advice: str) -> None:
    """Raise a MemoryError that says what needs how many bytes, if they are not there."""
    total = sum(needs.values())
    if total <= _NEVER_MISSED or total <= (there := available_memory()):
        return
    parts = ", ".join(f"{name} {_megabytes(size)}" for name, size in needs.items() if size)
    raise MemoryError(
        f"{what} needs {_megabytes(total)} MB ({parts}), and {_megabytes(there)} MB are "
        f"available; {advice}"
    )


def _megabytes(size: float) -> str:
    return f"{math.ceil(size / 1e6):,}"


def _of_machine() -> float:
    with suppress(OSError, ValueError, KeyError, IndexError):
        text = (PROC / "meminfo").read_text()
        sizes = dict(line.split(":") for line in text.splitlines())
        kilobytes = (sizes[name].split()[0] for name in ("MemAvailable", "SwapFree"))
        return 1024.0 * sum(map(int, kilobytes))
    return math.inf


def _of_groups() -> float:
    """Return the least that a control group, or one around it, has left."""
    return min(starmap(_left_in, control_groups("memory")), default=math.inf)


def _left_in(folder: Path, version: int) -> float:
    """Return what a group has left: pages of files count as free, for they can be had back."""
    limit, used, files = "memory.max", "memory.current", "inactive_file"
    if version == 1:
        limit, used, files = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_" + files
    with suppress(OSError, ValueError, KeyError, OverflowError):  # the limit may be "max"
        statistics = (folder / "memory.stat").read_text().splitlines()
        kept = dict(line.split() for line in statistics)[files]
        most, taken = (int((folder / name).read_text()) for name in (limit, used))
        return float(most - taken + int(kept))
    return math.inf
