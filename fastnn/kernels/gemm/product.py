"""Matrix products of any size, from register tiles.

`multiply` cuts its three operands (`tile.Operand`) into k blocks and tiles. The forward pass, the
gradient of the input and the gradient of the weights are this product with different strides
(`layers.dense`).

k blocks: a pair of panels of `DEPTH_BLOCK` rows of the right factor takes 32 kB, and stays in the
L1 cache for all rows of the left factor. A sum over more k is cut there and resumed from the
result, which does not change its bits.

The functions that contain micro-kernels are units: compiled once and called by name.
"""

import numpy as np
from numba import types

from fastnn.kernels.gemm.tile import (
    COMPACT,
    LISTED,
    LISTED_INPUTS,
    LISTED_PANELS,
    LISTED_SAMPLES,
    PLAIN,
    TILE_PANELS,
    TILE_ROWS,
    WIDE_PANELS,
    Operand,
    skip_rows,
    skip_steps,
    tile,
)
from fastnn.kernels.jit.compiling import jit, unit
from fastnn.kernels.jit.simd import ZERO, array_at

DEPTH_BLOCK = 256
INT_BYTES = 4

_INTEGER, _FLAG, _RATE = types.int64, types.boolean, types.float32
_OPERANDS = (_INTEGER,) * 9  # c, a and b, each as the fields of an `Operand`


def _column_kernel(panels):
    """Return the kernel for all rows of a number of panels; the number is constant for the JIT."""

    @jit
    def multiply_column(c, a, b, rows, depth, resume, rate):
        i = 0
        while rows - i >= TILE_ROWS:
            tile(
                PLAIN, TILE_ROWS, panels, skip_rows(c, i), skip_rows(a, i), b,
                0, depth, resume, rate,
            )  # fmt: skip
            i += TILE_ROWS
        if rows - i >= 4:  # the remaining rows, fewer than TILE_ROWS, in powers of two
            tile(PLAIN, 4, panels, skip_rows(c, i), skip_rows(a, i), b, 0, depth, resume, rate)
            i += 4
        if rows - i >= 2:
            tile(PLAIN, 2, panels, skip_rows(c, i), skip_rows(a, i), b, 0, depth, resume, rate)
            i += 2
        if rows - i >= 1:
            tile(PLAIN, 1, panels, skip_rows(c, i), skip_rows(a, i), b, 0, depth, resume, rate)

    return multiply_column


_one_panel, _two_panels = _column_kernel(1), _column_kernel(2)


@unit(*_OPERANDS, *(_INTEGER,) * 3, _FLAG, _RATE)
def block_product(
    c_address, c_row, c_step, a_address, a_row, a_step, b_address, b_row, b_step,
    rows, panels, depth, resume, rate,
):  # fmt: skip
    """Compute `tile.tile` for any number of rows and panels, without cutting the sums."""
    c, a = Operand(c_address, c_row, c_step), Operand(a_address, a_row, a_step)
    b = Operand(b_address, b_row, b_step)
    p = 0
    while rows == 1 and panels - p >= WIDE_PANELS:
        tile(
            PLAIN, 1, WIDE_PANELS, skip_steps(c, p), a, skip_steps(b, p), 0, depth, resume, rate
        )  # fmt: skip
        p += WIDE_PANELS
    while TILE_PANELS == 2 and panels - p >= 2:
        _two_panels(skip_steps(c, p), a, skip_steps(b, p), rows, depth, resume, rate)
        p += 2
    while p < panels:
        _one_panel(skip_steps(c, p), a, skip_steps(b, p), rows, depth, resume, rate)
        p += 1


def _row_kernel(kind, rows, widest):
    """Return the kernel for all panels of a few rows, in tiles of at most `widest` panels."""

    @jit
    def multiply_rows(c, a, b, panels, ks, count, resume, rate):
        p = 0
        while widest >= 8 and panels - p >= 8:
            tile(kind, rows, 8, skip_steps(c, p), a, skip_steps(b, p), ks, count, resume, rate)
            p += 8
        while widest >= 4 and panels - p >= 4:
            tile(kind, rows, 4, skip_steps(c, p), a, skip_steps(b, p), ks, count, resume, rate)
            p += 4
        while widest >= 2 and panels - p >= 2:
            tile(kind, rows, 2, skip_steps(c, p), a, skip_steps(b, p), ks, count, resume, rate)
            p += 2
        while p < panels:
            tile(kind, rows, 1, skip_steps(c, p), a, skip_steps(b, p), ks, count, resume, rate)
            p += 1

    return multiply_rows


_row_listed = _row_kernel(LISTED, 1, WIDE_PANELS)
_samples_listed = _row_kernel(LISTED, LISTED_SAMPLES, WIDE_PANELS)
_inputs_listed = _row_kernel(LISTED, LISTED_INPUTS, LISTED_PANELS)
_row_compact = _row_kernel(COMPACT, 1, WIDE_PANELS)


@unit(*_OPERANDS, *(_INTEGER,) * 5, _FLAG, _RATE)
def listed_product(
    c_address, c_row, c_step, a_address, a_row, a_step, b_address, b_row, b_step,
    rows, panels, height, lists, list_size, resume, rate,
):  # fmt: skip
    """Compute LISTED tiles of `height` rows, each with its own list, for any number of rows.

    The lists, as `layers.zeros` writes them, start at the address `lists`. Each takes `list_size`
    int32.
    """
    c, a = Operand(c_address, c_row, c_step), Operand(a_address, a_row, a_step)
    b = Operand(b_address, b_row, b_step)
    i = 0
    while i < rows:
        count = array_at(lists, 1, np.int32)[0]
        ks = lists + INT_BYTES
        if height == LISTED_SAMPLES and rows - i >= LISTED_SAMPLES:
            _samples_listed(skip_rows(c, i), skip_rows(a, i), b, panels, ks, count, resume, rate)
        elif height == LISTED_INPUTS and rows - i >= LISTED_INPUTS:
            _inputs_listed(skip_rows(c, i), skip_rows(a, i), b, panels, ks, count, resume, rate)
        else:
            for j in range(i, min(rows, i + height)):
                _row_listed(skip_rows(c, j), skip_rows(a, j), b, panels, ks, count, resume, rate)
        i += height
        lists += list_size * INT_BYTES


@unit(*(_INTEGER,) * 9, _RATE)
def compact_product(
    c_address, c_step, a_address, b_address, b_row, b_step, panels, ks, count, rate
):  # fmt: skip
    """Compute a COMPACT tile of one row and any number of panels."""
    c, a = Operand(c_address, 0, c_step), Operand(a_address, 0, 1)
    b = Operand(b_address, b_row, b_step)
    _row_compact(c, a, b, panels, ks, count, False, rate)


@jit
def multiply(c, a, b, rows, panels, depth):
    """Compute ``c = a b``.

    Writes c (rows, panels·NR), reads a (rows, depth) and b (depth, panels·NR).
    """
    blocks = max(1, (depth + DEPTH_BLOCK - 1) // DEPTH_BLOCK)
    for block in range(blocks):
        k = depth * block // blocks
        block_depth = depth * (block + 1) // blocks - k
        block_product(
            c.address, c.row, c.step, skip_steps(a, k).address, a.row, a.step,
            skip_rows(b, k).address, b.row, b.step, rows, panels, block_depth, block > 0, ZERO,
        )  # fmt: skip


@jit
def multiply_update(c, a, b, rows, panels, depth, rate):
    """Compute ``c = c - rate · (a b)`` without cutting the sums; `rate` is not 0.

    The shapes are those of `multiply`.
    """
    block_product(
        c.address, c.row, c.step, a.address, a.row, a.step, b.address, b.row, b.step,
        rows, panels, depth, False, rate,
    )  # fmt: skip


@jit
def multiply_listed(c, a, b, rows, panels, height, lists, list_size, resume, rate):
    """Compute `listed_product`."""
    listed_product(
        c.address, c.row, c.step, a.address, a.row, a.step, b.address, b.row, b.step,
        rows, panels, height, lists, list_size, resume, rate,
    )  # fmt: skip


@jit
def multiply_compact(c, a, b, panels, ks, count, rate):
    """Compute ``c = a b`` for one row, or ``c = c - rate · (a b)`` if `rate` is not 0.

    Writes c (panels·NR,), reads `count` numbers at the address `a`, and rows of b. `ks` is the
    address of the `count` int32 numbers of these rows.
    """
    compact_product(c.address, c.step, a, b.address, b.row, b.step, panels, ks, count, rate)
