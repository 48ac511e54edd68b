"""Detect memory-mapped arrays, and memory maps of files that were truncated."""

import mmap
from contextlib import suppress
from typing import Any

import numpy as np

from fastnn.errors import DataError


def is_mapped(array: Any) -> bool:
    """Return whether the memory of an array is a memory map."""
    return isinstance(_owner_and_root(array)[0], mmap.mmap)


def check_not_truncated(array: np.ndarray, name: str) -> None:
    """Raise a DataError if an array is in a memory map of a file that was truncated since.

    Reading the missing part would end the process with SIGBUS.
    """
    if array.base is None:  # the usual case; this function is called every few batches
        return
    owner, root = _owner_and_root(array)
    if not isinstance(owner, mmap.mmap):
        return
    end = len(owner)
    if isinstance(root, np.memmap):  # the map begins at the array's offset, rounded down
        end += root.offset - root.offset % mmap.ALLOCATIONGRANULARITY
    size = end
    with suppress(OSError, ValueError):  # an anonymous map has no file
        size = owner.size()
    if size < end:
        raise DataError(f"{name} is in a file that was truncated")


def _owner_and_root(array: Any) -> tuple[Any, Any]:
    """Return the object that owns an array's memory, and the array that views it directly.

    Exact types are compared first, because predictions of a single row take microseconds.
    """
    owner = root = array
    base = getattr(array, "base", None)
    while base is not None:
        root, owner = owner, base
        kind = type(base)
        if kind is np.ndarray or kind is np.memmap:
            base = base.base
        elif kind is memoryview:
            base = base.obj
        else:
            base = base.base if isinstance(base, np.ndarray) else None
    return owner, root
