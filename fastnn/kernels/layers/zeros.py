"""Masks and lists of the features that are not zero, for products that skip zeros.

81 % of MNIST's pixels are zero. A product of zero and a finite number does not change a sum, so the
products of the first layer run over lists: in the forward pass, of the inputs that are not zero in
at least one sample of a register tile (29 % for 2 samples of MNIST); in the backward pass, of the
samples in which at least one input of a tile is not zero (28 % for 4 inputs).

A group is NR consecutive inputs; the last group includes the bias. A mask has a bit for each input
of a group, in one row: 1 if it is not zero. (Dropout has other masks.) Masks are stored group by
group, with consecutive rows, so that both kinds of lists read consecutive masks. A list is an int32
array: the number of its indices, and the indices in increasing order.
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
# L1 cache for all rows of a row block.
BLOCK_GROUPS = 6

# Number of int32 that a list takes apart from its indices: the count, and lanes written past the
# end.
LIST_MARGIN = 1 + NR

# Skipping zeros saves time if at most this percentage of the products is left.
MAX_PERCENT_LEFT = 75

# Fixed time for a tile's list, relative to the product of the tile over all rows.
LIST_WORK = 0.1

# Unused masks after those of a chunk's rows in each group: complete vectors are read past the rows,
# and groups whose distance is a power of two would compete for the same set of the cache.
MASK_PADDING = 32


@jit
def write_masks(masks, stride, row, scratch, at, width):
    """Write the masks of a row, whose `width` features start at ``scratch[at]``.

    Writes column `row` of masks (groups, stride) uint16. Reads complete groups of NR numbers.
    """
    groups = (width + NR - 1) // NR
    for g in range(groups):
        masks[g * stride + row] = nonzero_mask(scratch, at + g * NR)
    masks[(groups - 1) * stride + row] &= (1 << (width - (groups - 1) * NR)) - 1


@jit
def is_sparse_enough(masks, stride, row, rows, width):
    """Return whether a sample of rows has enough zeros for their row block to skip zeros."""
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
    """List the inputs of groups `low` to `high` that are not zero in one of `rows` rows from `row`.

    Writes lists from ``lists[at]`` on, reads masks.
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
    """List the rows in which one of the LISTED_INPUTS inputs from `low` on is not zero.

    Writes lists from ``lists[at]`` on, reads the masks of the group of these inputs.
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
    """Return the largest size of a task's lists in int32, rounded up to a cache line."""
    of_inputs = row_block // LISTED_SAMPLES * (BLOCK_GROUPS * NR + LIST_MARGIN)
    of_rows = input_block // LISTED_INPUTS * (rows + LIST_MARGIN)
    return -(-max(of_inputs, of_rows) // NR) * NR


def estimate_group_work(x):
    """Estimate the work for each group of inputs if zeros are skipped, from a sample of the rows.

    Parameters
    ----------
    x : ndarray (n, I), uint8 or float32

    Returns
    -------
    ndarray (groups,) float64, or None
        About 1.1 for a group without zeros: 1 for the products over all rows, and LIST_WORK. None
        if skipping zeros takes longer than it saves.
    """
    tiles = min(32, len(x) // 8)
    starts = np.linspace(0, len(x) - 8, tiles).astype(np.int64)
    used = x[(starts[:, None] + np.arange(8)).ravel()] != 0
    forward = used.reshape(-1, LISTED_SAMPLES, used.shape[1]).any(axis=1).mean()
    padded = np.pad(used, ((0, 0), (0, -used.shape[1] % NR)))
    tiles_used = padded.reshape(len(used), -1, NR // LISTED_INPUTS, LISTED_INPUTS).any(axis=3)
    backward = tiles_used.sum() / (used.size / LISTED_INPUTS)
    if 100 * (forward + backward) >= 2 * MAX_PERCENT_LEFT:  # their mean decides
        return None
    work = LIST_WORK + tiles_used.mean(axis=(0, 2))
    bias_is_group = used.shape[1] % NR == 0  # the bias is the only input of the last group
    return np.append(work, 1 / NR) if bias_is_group else work


def balance(work, tasks):
    """Return the first group of each task, and the number of groups: int64 (tasks + 1,).

    Each task gets consecutive groups, of about the same work in all.

    Examples
    --------
    >>> balance(np.array([1, 1, 1, 5, 1, 1, 1, 1]), 3).tolist()
    [0, 3, 4, 8]
    """
    ends = np.cumsum(work)
    goals = ends[-1] * np.arange(1, tasks) / tasks
    # A group belongs to the task that contains the middle of its work.
    cuts = np.searchsorted(ends - work / 2, goals)
    return np.concatenate([[0], cuts, [len(work)]])
