"""Masks and lists of the features that are not zero, for products that skip zeros.

81 % of MNIST's pixels are zero. Products with zero do not change a sum, so the products of the
first layer run over lists: in the forward pass, of the inputs that are not zero in any sample of a
register tile (29 % for 2 samples of MNIST); in the backward pass, of the samples in which any input
of a tile is not zero (28 % for 4 inputs).

A mask has a bit for each of the NR inputs of a group, in one row. Masks are stored group by group,
with consecutive rows, so that both kinds of lists read consecutive masks. A list is an int32 array:
the number of its indices, and the indices in increasing order.
"""

import numpy as np

from fastnn.kernels.gemm.tile import LISTED_INPUTS, LISTED_SAMPLES
from fastnn.kernels.jit.compiling import jit
from fastnn.kernels.jit.simd import (
    HAS_COMPRESS,
    NR,
    compress_places,
    count_bits,
    lowest_bit,
    marked_mask,
    nonzero_mask,
)

# Groups of inputs that are listed and multiplied together: their part of the weights stays in the
# L1 cache for all rows of a block.
BLOCK_GROUPS = 6

# int32 of a list besides its indices: the count, and the lanes written past the end.
LIST_MARGIN = 1 + NR

# Percentage of products left above which skipping zeros takes longer than it saves.
MAX_PERCENT_LEFT = 75

# Fixed cost of a tile's list, relative to the product of a tile over all rows.
LIST_WORK = 0.1

# Masks of a group besides those of a chunk's rows: whole vectors are read, and groups a power of
# two apart would compete for the same set of the cache.
MASK_PADDING = 32


@jit
def write_masks(masks, stride, row, scratch, at, width):
    """Write the masks of a row, whose `width` features start at ``scratch[at]``.

    masks (groups, stride) uint16: column `row` written. Whole groups of NR numbers are read.
    """
    groups = (width + NR - 1) // NR
    for g in range(groups):
        masks[g * stride + row] = nonzero_mask(scratch, at + g * NR)
    masks[(groups - 1) * stride + row] &= (1 << (width - (groups - 1) * NR)) - 1


@jit
def is_sparse_enough(masks, stride, row, rows, width):
    """Return whether a sample of rows has so many zeros that their block should skip zeros."""
    groups = (width + NR - 1) // NR
    used = 0
    for g in range(groups):
        mask = 0
        for i in range(row, row + rows):
            mask |= np.int64(masks[g * stride + i])
        used += count_bits(mask)
    return 100 * used < MAX_PERCENT_LEFT * width


@jit
def _append(lists, end, mask, base):
    """Append ``base`` plus the index of each set bit of a mask; return the new end."""
    if HAS_COMPRESS:
        return compress_places(lists, end, mask, base)
    while mask != 0:
        lists[end] = base + lowest_bit(mask)
        mask &= mask - 1
        end += 1
    return end


@jit
def list_inputs(lists, at, masks, stride, row, rows, low, high):
    """List the inputs of groups `low` to `high` that are not zero in any of `rows` rows from `row`.

    lists from `at` written; masks read.
    """
    end = at + 1
    for g in range(low, high):
        mask = 0
        for i in range(row, row + rows):
            mask |= np.int64(masks[g * stride + i])
        end = _append(lists, end, mask, g * NR)
    lists[at] = end - at - 1


@jit
def list_rows(lists, at, masks, stride, low, rows):
    """List the rows in which any of the LISTED_INPUTS inputs from `low` is not zero.

    lists from `at` written; the masks of their group read.
    """
    group = low // NR
    wanted = ((1 << LISTED_INPUTS) - 1) << (low - group * NR)
    end = at + 1
    for i in range(0, rows, NR):
        mask = marked_mask(masks, group * stride + i, wanted)
        if rows - i < NR:
            mask &= (1 << (rows - i)) - 1
        end = _append(lists, end, mask, i)
    lists[at] = end - at - 1


def list_size(rows, row_block, input_block):
    """Return the largest size of a task's lists in int32, in whole cache lines."""
    of_inputs = row_block // LISTED_SAMPLES * (BLOCK_GROUPS * NR + LIST_MARGIN)
    of_rows = input_block // LISTED_INPUTS * (rows + LIST_MARGIN)
    return -(-max(of_inputs, of_rows) // NR) * NR


def estimate_group_work(x):
    """Estimate the work of each group of inputs if zeros are skipped; None if that takes longer.

    The estimate is made from a sample of the rows.

    Parameters
    ----------
    x : ndarray (n, I), uint8 or float32

    Returns
    -------
    ndarray (groups,) float64, or None
        1 for a group whose products run over all rows.
    """
    tiles = min(32, len(x) // 8)
    starts = np.linspace(0, len(x) - 8, tiles).astype(np.int64)
    used = x[(starts[:, None] + np.arange(8)).ravel()] != 0
    forward = used.reshape(-1, LISTED_SAMPLES, used.shape[1]).any(axis=1).mean()
    padded = np.pad(used, ((0, 0), (0, -used.shape[1] % NR)))
    tiles_used = padded.reshape(len(used), -1, NR // LISTED_INPUTS, LISTED_INPUTS).any(axis=3)
    backward = tiles_used.sum() / (used.size / LISTED_INPUTS)
    if 100 * (forward + backward) >= 2 * MAX_PERCENT_LEFT:
        return None
    work = LIST_WORK + tiles_used.mean(axis=(0, 2))
    bias_is_group = used.shape[1] % NR == 0  # the bias is the only input of the last group
    return np.append(work, 1 / NR) if bias_is_group else work


def balance(work, tasks):
    """Return the first group of each task, and the end of the last: int64 (tasks + 1,).

    Examples
    --------
    >>> balance(np.array([1, 1, 1, 5, 1, 1, 1, 1]), 3).tolist()
    [0, 3, 4, 8]
    """
    ends = np.cumsum(work)
    goals = ends[-1] * np.arange(1, tasks) / tasks
    cuts = np.searchsorted(
        ends - work / 2, goals
    )  # a group belongs to the task that contains its middle
    return np.concatenate([[0], cuts, [len(work)]])
