"""Zeros are free: which features of a chunk are not zero, as masks and as lists.

Of MNIST's pixels 81 % are zero. A product with zero adds nothing to a sum, so the first layer's
products run over lists of what is left: forward, the inputs that any row of a register tile uses
(47 % over 8 rows of MNIST); backward, the rows that use any input of a strip (28 % over 4).

A mask tells of one row and a group of NR inputs, a bit an input. Masks lie group by group, a row
behind the other, so that both lists read them in a stretch.
"""

import numpy as np

from fastnn.kernels._jit import jit
from fastnn.kernels._simd import NR, lowest_bit, marked_mask, nonzero_mask
from fastnn.kernels._tile import LISTED_ROWS, TILE_ROWS

STRIPS = NR // LISTED_ROWS  # in a group
WORD = 3  # masks that are walked as one number, clear of the sign of int64

# Inputs of this many groups are summed at a time: the panels that they meet then stay in the first
# cache while the rows of a block pass by.
BLOCK_GROUPS = 24

WORTH_IT = 0.75  # of all products left: with more, looking for zeros costs more than it saves

# Masks of a group, beyond the rows of a chunk: whole words may be read, and groups must not lie
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
def append_bits(lists, end, bits, base):
    """Append ``base`` plus the place of each bit that is set; return the new end."""
    while bits != 0:
        lists[end] = base + lowest_bit(bits)
        bits &= bits - 1
        end += 1
    return end


def input_lists(width):
    """Return in how many blocks `list_inputs` lists so many inputs, and its int32 at most."""
    groups = (width + NR - 1) // NR
    blocks = (groups + BLOCK_GROUPS - 1) // BLOCK_GROUPS
    return blocks, blocks + 1 + groups * NR


shape_of_lists = jit(input_lists)


@jit
def list_inputs(lists, start, masks, stride, row, rows, width):
    """List the inputs that any of some rows uses, block by block.

    Block n's begin at ``lists[start + n]``, an index into `lists` as well, and end where the
    next one's begin. The masks of `rows` rows from `row` are read.
    """
    groups = (width + NR - 1) // NR
    blocks, _ = shape_of_lists(width)
    end = start + blocks + 1
    for word in range(0, groups, WORD):
        if word % BLOCK_GROUPS == 0:
            lists[start + word // BLOCK_GROUPS] = end
        bits = 0
        for g in range(word, min(groups, word + WORD)):
            mask = 0
            for i in range(rows):
                mask |= np.int64(masks[g * stride + row + i])
            bits |= mask << ((g - word) * NR)
        end = append_bits(lists, end, bits, word * NR)
    lists[start + blocks] = end


@jit
def list_rows(lists, start, masks, stride, group, strip, rows):
    """List the rows that use any input of a strip of a group; return how many there are.

    lists (≤ rows,) int32 from `start`, written; the group's masks read.
    """
    wanted = ((1 << LISTED_ROWS) - 1) << (strip * LISTED_ROWS)
    end = start
    for word in range(0, rows, WORD * NR):
        bits = 0
        for i in range(word, min(rows, word + WORD * NR), NR):
            mask = marked_mask(masks, group * stride + i, wanted)
            if rows - i < NR:
                mask &= (1 << (rows - i)) - 1
            bits |= mask << (i - word)
        end = append_bits(lists, end, bits, word)
    return end - start


def list_size(width, rows, row_block):
    """Return how many int32 a task needs for its lists, at most; whole cache lines."""
    of_inputs = -(-row_block // TILE_ROWS) * input_lists(width)[1]
    return -(-max(of_inputs, rows) // NR) * NR


def worth_skipping(x):
    """Return whether lists would be short enough to pay, from a sample of the rows.

    Making and walking them takes about a quarter of what they save at best.

    Parameters
    ----------
    x : ndarray (n, I), uint8 or float32
    """
    tiles = min(32, len(x) // 8)
    starts = np.linspace(0, len(x) - 8, tiles).astype(np.int64)
    sample = x[(starts[:, None] + np.arange(8)).ravel()] != 0
    forward = sample.reshape(tiles, 8, -1).any(axis=1).mean()
    whole_strips = sample[:, : sample.shape[1] // 4 * 4].reshape(len(sample), -1, 4)
    backward = whole_strips.any(axis=2).mean() if whole_strips.size else 1.0
    return bool(forward + backward < 2 * WORTH_IT)
