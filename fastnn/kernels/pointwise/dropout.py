"""Dropout over a block of rows, by the masks of `fastnn.model.randomness.keep_mask`.

Twin of `reference.dropout`.
"""

import numpy as np
from numba import types

from fastnn.kernels.jit.compiling import Unit, jit
from fastnn.kernels.jit.philox import keep_bits, keep_marked
from fastnn.kernels.jit.simd import NR, ONE, address_in, array_at
from fastnn.model.randomness import BLOCK, GROUP


def mask_rows(x_at, stride, rows, width, key, epoch, layer, position, level, factor):
    """Multiply what is kept of (rows, width) numbers at an address by the factor; 0 elsewhere.

    The numbers are inputs of a layer, of the samples from `position` on. Whole vectors are
    written: up to NR - 1 lanes past the width.
    """
    x = array_at(x_at, rows * stride, np.float32)
    for i in range(rows):
        for column in range(0, width, BLOCK):
            group = column // BLOCK * GROUP
            bits = keep_bits(key, group, position + i, epoch, layer, level)
            for j in range(column, min(width, column + BLOCK), NR):
                keep_marked(x, i * stride + j, bits, factor)
                bits >>= NR


UNITS = (Unit(mask_rows, *(types.int64,) * 9, types.float32),)
(_mask_rows,) = (unit.call for unit in UNITS)


@jit
def drop(workspace, at, layer, job, place, first, rows):
    """Drop some of the numbers (rows, I) from ``workspace[at]`` as the inputs of a layer.

    The layer has this place in the network; the rows count from `first` in the chunk. The ones
    behind the inputs, for the bias, are ones again.
    """
    stride, width = layer.a_row, layer.inputs
    _mask_rows(
        address_in(workspace, at), stride, rows, width, job.key, job.epoch, place,
        job.start + first, layer.keep_level, layer.keep_factor,
    )  # fmt: skip
    for i in range(rows):
        workspace[at + i * stride + width] = ONE
