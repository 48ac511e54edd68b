"""Dropout over a row block, with the masks of `fastnn.model.randomness.keep_mask`.

See `reference.dropout`.
"""

import numpy as np
from numba import types

from fastnn.kernels.jit.compiling import jit, unit
from fastnn.kernels.jit.philox import keep_bits, keep_marked
from fastnn.kernels.jit.simd import NR, ONE, address_in, array_at
from fastnn.model.randomness import BLOCK, GROUP


@unit(*(types.int64,) * 9, types.float32)
def mask_rows(x_address, stride, rows, width, key, epoch, layer, position, level, factor):
    """``x = x · factor`` where the dropout mask is true, else 0.

    x (rows, width) at the address `x_address` is the input of layer number `layer`, for the samples
    from `position` on. Bits of the mask are drawn for dropout blocks of BLOCK columns. Complete
    vectors are written: up to NR - 1 lanes past the width.
    """
    x = array_at(x_address, rows * stride, np.float32)
    for i in range(rows):
        for column in range(0, width, BLOCK):
            group = column // BLOCK * GROUP
            bits = keep_bits(key, group, position + i, epoch, layer, level)
            for j in range(column, min(width, column + BLOCK), NR):
                keep_marked(x, i * stride + j, bits, factor)
                bits >>= NR


@jit
def drop(scratch, at, layer, job, number, first, rows):
    """Apply the dropout of layer `number` to (rows, I) numbers from ``scratch[at]``, in place.

    The rows are those of the chunk from `first` on. The column of ones, which the masks may have
    changed, is written again.
    """
    stride, width = layer.x_row, layer.inputs
    mask_rows(
        address_in(scratch, at), stride, rows, width, job.seed, job.epoch, number,
        job.start + first, layer.keep_level, layer.keep_factor,
    )  # fmt: skip
    for i in range(rows):
        scratch[at + i * stride + width] = ONE
