"""Recognise memory-mapped arrays, and those whose file has been cut short."""

import mmap
from contextlib import suppress
from typing import Any

import numpy as np


def is_mapped(array: Any) -> bool:
    """Return whether an array lies in a memory map."""
    return isinstance(_owner_and_root(array)[0], mmap.mmap)


def is_cut_short(array: Any) -> bool:
    """Return whether an array lies in a map of a file that has become shorter than the map.

    Reading the missing part would end the process with SIGBUS.
    """
    base = getattr(array, "base", None)
    if base is None or (type(base) is np.ndarray and base.base is None):
        return False  # an array in memory, or a view of one: soon said, for one row's prediction
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
    """Return the object that owns an array's memory, and the array that views it directly."""
    owner = root = array
    while isinstance(owner, np.ndarray | memoryview):
        root, owner = owner, owner.base if isinstance(owner, np.ndarray) else owner.obj
    return owner, root
