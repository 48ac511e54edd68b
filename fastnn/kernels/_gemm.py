"""The matrix product that everything else is made of.

`multiply` walks three operands (see `_tile.Operand`) in blocks and hands register tiles to the
micro-kernel, `_tile.tile`. Forward, backward to the input and backward to the weights are this
one function over other strides (`dense.py`).

Blocks: a panel pair of `DEPTH_BLOCK` rows of the right factor takes 32 kB and stays in the first
cache while all rows of the left one pass by it. A longer sum is cut there and resumed from the
result, which leaves its bits as they are.
"""

import numpy as np

from fastnn.kernels._jit import jit
from fastnn.kernels._tile import (
    LISTED_INPUTS,
    LISTED_PANELS,
    LISTED_SAMPLES,
    TILE_PANELS,
    TILE_ROWS,
    WIDE_PANELS,
    Operand,
    tile,
    tile_listed,
)

DEPTH_BLOCK = 256
ZERO = np.float32(0)


@jit
def _down(operand, rows):
    """Return the operand that starts so many rows further down."""
    return Operand(operand.data, operand.at + rows * operand.row, operand.row, operand.step)


def _column(panels):
    """Make the kernel for a column of the result so many panels wide, a constant to the JIT."""

    @jit
    def column(c, a, b, rows, depth, resume, rate):
        i = 0
        while rows - i >= TILE_ROWS:
            tile(TILE_ROWS, panels, _down(c, i), _down(a, i), b, depth, resume, rate)
            i += TILE_ROWS
        if rows - i >= 4:  # the rows left over: fewer than TILE_ROWS, in powers of two
            tile(4, panels, _down(c, i), _down(a, i), b, depth, resume, rate)
            i += 4
        if rows - i >= 2:
            tile(2, panels, _down(c, i), _down(a, i), b, depth, resume, rate)
            i += 2
        if rows - i >= 1:
            tile(1, panels, _down(c, i), _down(a, i), b, depth, resume, rate)

    return column


_one_panel, _two_panels = _column(1), _column(2)


@jit
def _right(operand, panels):
    """Return the operand that starts so many panels further on."""
    return Operand(operand.data, operand.at + panels * operand.step, operand.row, operand.step)


def _listed(rows, widest):
    """Make the kernel for a listed tile so many rows high and at most so many panels wide."""

    @jit
    def listed(c, a, b, panels, ks, start, count, resume, rate):
        p = 0
        while widest >= 8 and panels - p >= 8:
            tile_listed(rows, 8, _right(c, p), a, _right(b, p), ks, start, count, resume, rate)
            p += 8
        while widest >= 4 and panels - p >= 4:
            tile_listed(rows, 4, _right(c, p), a, _right(b, p), ks, start, count, resume, rate)
            p += 4
        while widest >= 2 and panels - p >= 2:
            tile_listed(rows, 2, _right(c, p), a, _right(b, p), ks, start, count, resume, rate)
            p += 2
        while p < panels:
            tile_listed(rows, 1, _right(c, p), a, _right(b, p), ks, start, count, resume, rate)
            p += 1

    return listed


_row_listed = _listed(1, WIDE_PANELS)
_samples_listed = _listed(LISTED_SAMPLES, WIDE_PANELS)
_inputs_listed = _listed(LISTED_INPUTS, LISTED_PANELS)


@jit
def multiply_listed_samples(c, a, b, rows, panels, ks, start, count, resume):
    """``c (+)= a b`` over the k in ``ks[start : start + count]``, at most LISTED_SAMPLES rows."""
    if rows == LISTED_SAMPLES:
        _samples_listed(c, a, b, panels, ks, start, count, resume, ZERO)
    else:
        for i in range(rows):
            _row_listed(_down(c, i), _down(a, i), b, panels, ks, start, count, resume, ZERO)


@jit
def multiply_listed_inputs(c, a, b, rows, panels, ks, start, count, rate):
    """`multiply_into` over the k in ``ks[start : start + count]``, at most LISTED_INPUTS rows."""
    if rows == LISTED_INPUTS:
        _inputs_listed(c, a, b, panels, ks, start, count, False, rate)
    else:
        for i in range(rows):
            _row_listed(_down(c, i), _down(a, i), b, panels, ks, start, count, False, rate)


@jit
def multiply(c, a, b, rows, panels, depth):
    """``c = a b``: c (rows, panels·NR) written, a (rows, depth) and b (depth, panels·NR) read."""
    blocks = max(1, (depth + DEPTH_BLOCK - 1) // DEPTH_BLOCK)
    for block in range(blocks):
        k = depth * block // blocks
        block_depth = depth * (block + 1) // blocks - k
        a_block = Operand(a.data, a.at + k * a.step, a.row, a.step)
        _multiply_block(c, a_block, _down(b, k), rows, panels, block_depth, block > 0, ZERO)


@jit
def multiply_into(c, a, b, rows, panels, depth, rate):
    """``c = c - rate · (a b)``, or ``c = a b`` where `rate` is 0; depth at most DEPTH_BLOCK."""
    _multiply_block(c, a, b, rows, panels, depth, False, rate)


@jit
def _multiply_block(c, a, b, rows, panels, depth, resume, rate):
    wide = panels // WIDE_PANELS * WIDE_PANELS if rows == 1 else 0
    for panel in range(0, wide, WIDE_PANELS):
        c_panel, b_panel = _right(c, panel), _right(b, panel)
        tile(1, WIDE_PANELS, c_panel, a, b_panel, depth, resume, rate)
    for panel in range(wide, panels, TILE_PANELS):
        c_panel, b_panel = _right(c, panel), _right(b, panel)
        if TILE_PANELS == 2 and panel + 1 < panels:
            _two_panels(c_panel, a, b_panel, rows, depth, resume, rate)
        else:
            _one_panel(c_panel, a, b_panel, rows, depth, resume, rate)
