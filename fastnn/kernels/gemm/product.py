"""The matrix product that everything else is made of.

`multiply` walks three operands (see `tile.Operand`) in blocks and hands register tiles to the
micro-kernel, `tile.tile`. Forward, backward to the input and backward to the weights are this
one function over other strides (`dense.py`).

Blocks: a panel pair of `DEPTH_BLOCK` rows of the right factor takes 32 kB and stays in the first
cache while all rows of the left one pass by. A longer sum is cut there and resumed from the
result, which leaves its bits as they are.

What knows the micro-kernels is in `UNITS`: compiled once, and called by name from all others.
"""

import numpy as np
from numba import types

from fastnn.kernels.gemm.tile import (
    LISTED_INPUTS,
    LISTED_PANELS,
    LISTED_SAMPLES,
    TILE_PANELS,
    TILE_ROWS,
    WIDE_PANELS,
    Operand,
    down,
    right,
    tile,
    tile_compact,
    tile_listed,
)
from fastnn.kernels.jit.compiling import Unit, jit
from fastnn.kernels.jit.simd import ZERO, array_at

DEPTH_BLOCK = 256
INT_BYTES = 4

_INTEGER, _FLAG, _RATE = types.int64, types.boolean, types.float32
_OPERANDS = (_INTEGER,) * 9  # c, a and b, each as address, row and step


def _column(panels):
    """Make the kernel for a column of the result so many panels wide, a constant to the JIT."""

    @jit
    def column(c, a, b, rows, depth, resume, rate):
        i = 0
        while rows - i >= TILE_ROWS:
            tile(TILE_ROWS, panels, down(c, i), down(a, i), b, depth, resume, rate)
            i += TILE_ROWS
        if rows - i >= 4:  # the rows left over: fewer than TILE_ROWS, in powers of two
            tile(4, panels, down(c, i), down(a, i), b, depth, resume, rate)
            i += 4
        if rows - i >= 2:
            tile(2, panels, down(c, i), down(a, i), b, depth, resume, rate)
            i += 2
        if rows - i >= 1:
            tile(1, panels, down(c, i), down(a, i), b, depth, resume, rate)

    return column


_one_panel, _two_panels = _column(1), _column(2)


def block_product(
    c_at, c_row, c_step, a_at, a_row, a_step, b_at, b_row, b_step,
    rows, panels, depth, resume, rate,
):  # fmt: skip
    """Multiply without cutting the sums: `tile.tile` for a result of any size."""
    c, a = Operand(c_at, c_row, c_step), Operand(a_at, a_row, a_step)
    b = Operand(b_at, b_row, b_step)
    panel = 0
    while rows == 1 and panels - panel >= WIDE_PANELS:
        tile(1, WIDE_PANELS, right(c, panel), a, right(b, panel), depth, resume, rate)
        panel += WIDE_PANELS
    while TILE_PANELS == 2 and panels - panel >= 2:
        _two_panels(right(c, panel), a, right(b, panel), rows, depth, resume, rate)
        panel += 2
    while panel < panels:
        _one_panel(right(c, panel), a, right(b, panel), rows, depth, resume, rate)
        panel += 1


def _listed(rows, widest, tile_over=tile_listed):
    """Make the kernel for a listed tile so many rows high and at most so many panels wide."""

    @jit
    def listed(c, a, b, panels, ks, count, resume, rate):
        p = 0
        while widest >= 8 and panels - p >= 8:
            tile_over(rows, 8, right(c, p), a, right(b, p), ks, count, resume, rate)
            p += 8
        while widest >= 4 and panels - p >= 4:
            tile_over(rows, 4, right(c, p), a, right(b, p), ks, count, resume, rate)
            p += 4
        while widest >= 2 and panels - p >= 2:
            tile_over(rows, 2, right(c, p), a, right(b, p), ks, count, resume, rate)
            p += 2
        while p < panels:
            tile_over(rows, 1, right(c, p), a, right(b, p), ks, count, resume, rate)
            p += 1

    return listed


_row_listed = _listed(1, WIDE_PANELS)
_samples_listed = _listed(LISTED_SAMPLES, WIDE_PANELS)
_inputs_listed = _listed(LISTED_INPUTS, LISTED_PANELS)
_row_compact = _listed(1, WIDE_PANELS, tile_compact)


def listed_product(
    c_at, c_row, c_step, a_at, a_row, a_step, b_at, b_row, b_step,
    rows, panels, height, lists, list_size, resume, rate,
):  # fmt: skip
    """Multiply so many rows at a time over their own list: `tile.tile_listed` for any size.

    The lists, as `zeros` makes them, begin at the address `lists`, `list_size` int32 apart.
    """
    c, a = Operand(c_at, c_row, c_step), Operand(a_at, a_row, a_step)
    b = Operand(b_at, b_row, b_step)
    i = 0
    while i < rows:
        count = array_at(lists, 1, np.int32)[0]
        ks = lists + INT_BYTES
        if height == LISTED_SAMPLES and rows - i >= LISTED_SAMPLES:
            _samples_listed(down(c, i), down(a, i), b, panels, ks, count, resume, rate)
        elif height == LISTED_INPUTS and rows - i >= LISTED_INPUTS:
            _inputs_listed(down(c, i), down(a, i), b, panels, ks, count, resume, rate)
        else:
            for j in range(i, min(rows, i + height)):
                _row_listed(down(c, j), down(a, j), b, panels, ks, count, resume, rate)
        i += height
        lists += list_size * INT_BYTES


def compact_product(
    c_at, c_step, a_at, b_at, b_row, b_step, panels, ks, count, rate
):  # fmt: skip
    """Multiply one row of `count` numbers, those of the int32 k at an address: `tile_compact`."""
    c, a, b = Operand(c_at, 0, c_step), Operand(a_at, 0, 1), Operand(b_at, b_row, b_step)
    _row_compact(c, a, b, panels, ks, count, False, rate)


UNITS = (
    Unit(block_product, *_OPERANDS, *(_INTEGER,) * 3, _FLAG, _RATE),
    Unit(listed_product, *_OPERANDS, *(_INTEGER,) * 5, _FLAG, _RATE),
    Unit(compact_product, *(_INTEGER,) * 9, _RATE),
)
_block_product, _listed_product, _compact_product = (unit.call for unit in UNITS)


@jit
def multiply(c, a, b, rows, panels, depth):
    """``c = a b``: c (rows, panels·NR) written, a (rows, depth) and b (depth, panels·NR) read."""
    blocks = max(1, (depth + DEPTH_BLOCK - 1) // DEPTH_BLOCK)
    for block in range(blocks):
        k = depth * block // blocks
        block_depth = depth * (block + 1) // blocks - k
        _block_product(
            c.at, c.row, c.step, right(a, k).at, a.row, a.step, down(b, k).at, b.row, b.step,
            rows, panels, block_depth, block > 0, ZERO,
        )  # fmt: skip


@jit
def multiply_into(c, a, b, rows, panels, depth, rate):
    """``c = c - rate · (a b)``, in one go: depth at most DEPTH_BLOCK, `rate` not 0."""
    _block_product(
        c.at, c.row, c.step, a.at, a.row, a.step, b.at, b.row, b.step,
        rows, panels, depth, False, rate,
    )  # fmt: skip


@jit
def multiply_listed(c, a, b, rows, panels, height, lists, list_size, resume, rate):
    """Multiply so many rows at a time over the k that their list holds (`listed_product`)."""
    _listed_product(
        c.at, c.row, c.step, a.at, a.row, a.step, b.at, b.row, b.step,
        rows, panels, height, lists, list_size, resume, rate,
    )  # fmt: skip


@jit
def multiply_compact(c, a, b, panels, ks, count, rate):
    """``c = a b`` for a single row of which only the listed k are given, side by side.

    Where `rate` is not 0: ``c = c - rate · (a b)``.
    """
    _compact_product(c.at, c.step, a, b.at, b.row, b.step, panels, ks, count, rate)
