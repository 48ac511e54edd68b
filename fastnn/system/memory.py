"""Check that there is enough memory before an operation changes anything.

Linux grants more memory than it has, and kills the process that uses it, without a message.
fastnn therefore adds up the arrays that grow with the network or with the rows before it starts.
Needs of at most `_NEGLIGIBLE` bytes are not checked.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from itertools import starmap
from pathlib import Path

import numpy as np

from fastnn.system.address_space import address_space_left
from fastnn.system.control_groups import PROC, control_groups

FLOAT_BYTES = 4
_NEGLIGIBLE = 1 << 24  # bytes
_COMPILER_BYTES = 280 << 20  # address space that compiling all kernels takes (measured)


def check_copy(name: str, numbers: int, number_bytes: int = FLOAT_BYTES) -> None:
    """Raise a MemoryError if there is no memory for a copy of an array.

    Parameters
    ----------
    name : str
        Name of the array in the message.
    numbers : int
        Number of elements.
    number_bytes : int, default 4
        Bytes of an element.
    """
    needs = numbers * number_bytes
    if needs > _NEGLIGIBLE:  # called for predictions of one row, which take microseconds
        check_memory(name, {"a copy": needs}, "float32 rows in C order are not copied")


def check_compiler() -> None:
    """Raise a MemoryError if there is no memory to compile: LLVM would end the process."""
    advice = "the engine 'numpy' compiles nothing"
    check_memory("compiling", {"the compiler": _COMPILER_BYTES}, advice)


def empty_predictions(rows: int, outputs: int) -> np.ndarray:
    """Return an uninitialized array (rows, outputs) float32, or raise a MemoryError."""
    needs = rows * outputs * FLOAT_BYTES
    if needs > _NEGLIGIBLE:
        check_memory("prediction", {"predictions": needs}, "fewer rows at a time need less")
    return np.empty((rows, outputs), np.float32)


def available_memory() -> float:
    """Return the bytes that this process can still allocate, or infinity if that is unknown.

    This is the minimum of three values: the free memory of the machine, swap included; what the
    control groups of the process allow; and what its limit of address space allows.
    """
    groups = starmap(_left_in_group, control_groups("memory"))
    return max(0.0, min(_left_on_machine(), address_space_left(), *groups))


def check_memory(name: str, needs: Mapping[str, int], advice: str) -> None:
    """Raise a MemoryError if the needed memory is not available.

    Parameters
    ----------
    name : str
        The operation, which starts the message.
    needs : mapping of str to int
        Bytes by purpose.
    advice : str
        How to need less, at the end of the message.
    """
    total = sum(needs.values())
    if total <= _NEGLIGIBLE or total <= (left := available_memory()):
        return
    parts = ", ".join(f"{part} {_megabytes(size)}" for part, size in needs.items() if size)
    raise MemoryError(
        f"{name} needs {_megabytes(total)} MB ({parts}), and {_megabytes(left)} MB are available; "
        f"{advice}"
    )


def _megabytes(size: float) -> str:
    return f"{math.ceil(size / 1e6):,}"


def _left_on_machine() -> float:
    with suppress(OSError, ValueError, KeyError, IndexError):
        text = (PROC / "meminfo").read_text()
        sizes = dict(line.split(":") for line in text.splitlines())
        kilobytes = (sizes[name].split()[0] for name in ("MemAvailable", "SwapFree"))
        return 1024.0 * sum(map(int, kilobytes))
    return math.inf


def _left_in_group(directory: Path, version: int) -> float:
    """Return the bytes that a group has left. Cached pages of files count as free."""
    limit, used, files = "memory.max", "memory.current", "inactive_file"
    if version == 1:
        limit, used, files = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_" + files
    with suppress(OSError, ValueError, KeyError, OverflowError):  # the limit may be "max"
        statistics = (directory / "memory.stat").read_text().splitlines()
        cached = dict(line.split() for line in statistics)[files]
        most, taken = (int((directory / name).read_text()) for name in (limit, used))
        return float(most - taken + int(cached))
    return math.inf
