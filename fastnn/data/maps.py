"""Recognise memory-mapped arrays, and those whose file has been cut short."""

import mmap
from contextlib import suppress
from typing import Any

import numpy as np

from fastnn.errors import DataError


def is_mapped(array: Any) -> bool:
    """Return whether an array lies in a memory map."""
    return isinstance(_owner_and_root(array)[0], mmap.mmap)


def check_file(array: np.ndarray, name: str) -> None:
    """Raise a DataError if an array lies in a map whose file has been cut short."""
    if array.base is not None and is_cut_short(array):
        raise DataError(f"{name} lies in a file that was cut short")


def is_cut_short(array: Any) -> bool:
    """Return whether an array lies in a map of a file that has become shorter than the map.

    Reading the missing part would end the process with SIGBUS.
    """
    owner, root = _owner_and_root(array)
    if not isinstance(owner, mmap.mmap):
        return False
    end = len(owner)
    if isinstance(root, np.memmap):  # its map begins at its offset, rounded down
        end += root.offset - root.offset % mmap.ALLOCATIONGRANULARITY
    with suppress(OSError, ValueError):  # the map has no file
        return owner.size() < end
    return False


def _owner_and_root(array: Any) -> tuple[Any, Any]:
    """Return the object that owns an array's memory, and the array that views it directly.

    It is called for one row's prediction, so exact types are compared first.
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
