"""Zeros are free: which features of a chunk are not zero, as masks and as lists.

Of MNIST's pixels 81 % are zero. A product with zero adds nothing to a sum, so the first layer's
products run over lists of what is left: forward, the inputs that any sample of a register tile
uses (29 % for 2 samples of MNIST); backward, the samples that use any of some neighbouring inputs
(28 % for 4).

A mask tells of one row and a group of NR inputs, a bit an input. Masks lie group by group, a row
behind the other, so that both lists read them in a stretch. A list is an int32 array: how many
there are, and then the places, increasing.
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

# Inputs of so many groups are listed and summed at a time: the panels that they meet then stay in
# the first cache while the rows of a block pass by.
BLOCK_GROUPS = 6

# int32 that a list of n places takes: the count, and what is written past the end.
LIST_MARGIN = 1 + NR

# Percent of all products: with more of them left, looking for zeros costs more than it saves.
WORTH_IT = 75

# What a tile's list costs, whatever its length, in tiles that use every row.
LIST_WORK = 0.1

# Masks of a group, beyond the rows of a chunk: whole vectors may be read, and groups must not lie
# a power of two apart, where they would share the few places of one set of the cache.
MASK_PADDING = 32


@jit
def mark(masks, stride, row, workspace, at, width):
    """Write a row's masks: which of the `width` numbers from ``workspace[at]`` are not zero.

    masks (groups, stride) uint16, column `row` written; whole groups of NR numbers are read.
    """
    groups = (width + NR - 1) // NR
    for g in range(groups):
        masks[g * stride + row] = nonzero_mask(workspace, at + g * NR)
    masks[(groups - 1) * stride + row] &= (1 << (width - (groups - 1) * NR)) - 1


@jit
def few_marked(masks, stride, row, rows, width):
    """Whether few enough of the inputs are used by any of some rows, to tell of their block."""
    groups = (width + NR - 1) // NR
    used = 0
    for g in range(groups):
        mask = 0
        for i in range(row, row + rows):
            mask |= np.int64(masks[g * stride + i])
        used += count_bits(mask)
    return 100 * used < WORTH_IT * width


@jit
def _append(lists, end, mask, base):
    """Append ``base`` plus the place of each bit of a mask that is set; return the new end."""
    if HAS_COMPRESS:
        return compress_places(lists, end, mask, base)
    while mask != 0:
        lists[end] = base + lowest_bit(mask)
        mask &= mask - 1
        end += 1
    return end


@jit
def list_inputs(lists, at, masks, stride, row, rows, low, high):
    """List the inputs of groups `low` to `high` that any of `rows` rows from `row` uses.

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
    """List the rows that use any of the LISTED_INPUTS inputs from `low`, whole tiles of them.

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
    """Return how many int32 a task needs for its lists, at most; whole cache lines."""
    of_inputs = row_block // LISTED_SAMPLES * (BLOCK_GROUPS * NR + LIST_MARGIN)
    of_rows = input_block // LISTED_INPUTS * (rows + LIST_MARGIN)
    return -(-max(of_inputs, of_rows) // NR) * NR


def work_of_groups(x):
    """Return each group's share of the work that is left by lists; None where they do not pay.

    From a sample of the rows. Making and walking lists takes about a quarter of what they save at
    best.

    Parameters
    ----------
    x : ndarray (n, I), uint8 or float32
    """
    tiles = min(32, len(x) // 8)
    starts = np.linspace(0, len(x) - 8, tiles).astype(np.int64)
    used = x[(starts[:, None] + np.arange(8)).ravel()] != 0
    forward = used.reshape(-1, LISTED_SAMPLES, used.shape[1]).any(axis=1).mean()
    whole = np.pad(used, ((0, 0), (0, -used.shape[1] % NR)))
    tiles_used = whole.reshape(len(used), -1, NR // LISTED_INPUTS, LISTED_INPUTS).any(axis=3)
    backward = tiles_used.sum() / (used.size / LISTED_INPUTS)
    if 100 * (forward + backward) >= 2 * WORTH_IT:
        return None
    work = LIST_WORK + tiles_used.mean(axis=(0, 2))
    bias_alone = used.shape[1] % NR == 0  # a group of its own, of a single input
    return np.append(work, 1 / NR) if bias_alone else work


def balanced(work, tasks):
    """Return which group each task begins with, and where the last one ends: int64 (tasks + 1,).

    Examples
    --------
    >>> balanced(np.array([1, 1, 1, 5, 1, 1, 1, 1]), 3).tolist()
    [0, 3, 4, 8]
    """
    ends = np.cumsum(work)
    goals = ends[-1] * np.arange(1, tasks) / tasks
    cuts = np.searchsorted(ends - work / 2, goals)  # a group goes where its middle lies
    return np.concatenate([[0], cuts, [len(work)]])
