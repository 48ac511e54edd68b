"""The rungs of the ladder: one matrix product, ``c = a b``, with one optimization more each.

a (128, 785) contains samples and a column of ones, b (785, 128) the first layer's weights and
biases; c is (128, 128). Everything runs on one thread. A rung may rearrange a and b once, which is
not timed, because fastnn always stores weights in panels. All arrays start on cache lines; loops
over a c that did not took 1.5 times as long.
"""

from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np

from fastnn.kernels.gemm.product import multiply
from fastnn.kernels.gemm.tile import PLAIN, TILE_PANELS, TILE_ROWS, operand, tile
from fastnn.kernels.jit.simd import NR, address_in, array_at
from fastnn.kernels.layers.dense import dense_forward_listed
from fastnn.kernels.layers.zeros import write_masks
from fastnn.kernels.layout import Layout
from fastnn.kernels.workspace import ROW_BLOCK, Workspace, aligned_zeros
from fastnn.model.layers import dense_layers
from fastnn.model.losses import LOSSES

ROWS, DEPTH, COLUMNS = 128, 785, 128  # ROWS and COLUMNS are whole tiles on every machine
FLOPS = 2 * ROWS * DEPTH * COLUMNS  # operations with zeros count


class Ready(NamedTuple):
    """A rung with its operands: ``run()`` computes the product into ``c``.

    `run` computes it `products` times, which is 1 except for the BLAS in a separate process.
    """

    run: Callable[[], None]
    c: np.ndarray
    products: int = 1


def with_result(kernel: Callable, *operands: np.ndarray | int) -> Ready:
    """Return a rung for a kernel that takes c (ROWS, COLUMNS) and then its operands."""
    c = aligned(np.full((ROWS, COLUMNS), np.nan, np.float32))
    return Ready(lambda: kernel(c, *operands), c)


def aligned(array: np.ndarray) -> np.ndarray:
    """Return a copy that begins on a cache line."""
    copy = aligned_zeros(array.size).reshape(array.shape)
    copy[:] = array
    return copy


# ---- loops compiled by Numba ----------------------------------------------------------------


def plain_loops(a: np.ndarray, b: np.ndarray) -> Ready:
    """The formula, ``c[i, j] = Σ a[i, k] b[k, j]``: one dependent sum at a time."""
    return with_result(_plain_loops, a, b)


@numba.njit
def _plain_loops(c, a, b):
    for i in range(c.shape[0]):
        for j in range(c.shape[1]):
            total = np.float32(0)
            for k in range(a.shape[1]):
                total += a[i, k] * b[k, j]
            c[i, j] = total


def loops_over_rows(a: np.ndarray, b: np.ndarray) -> Ready:
    """Innermost j: rows of b and c are read in order, so the compiler vectorizes the loop."""
    return with_result(_loops_over_rows, a, b)


@numba.njit
def _loops_over_rows(c, a, b):
    c[:] = 0
    for i in range(c.shape[0]):
        for k in range(a.shape[1]):
            for j in range(c.shape[1]):
                c[i, j] += a[i, k] * b[k, j]


def unrolled_by_hand(a: np.ndarray, b: np.ndarray) -> Ready:
    """Two rows by four k: a load of b serves two rows, a load and store of c serve four k."""
    return with_result(_unrolled_by_hand, a, b)


@numba.njit
def _unrolled_by_hand(c, a, b):
    whole = a.shape[1] // 4 * 4
    c[:] = 0
    for i in range(0, c.shape[0], 2):
        c0, c1, a0, a1 = c[i], c[i + 1], a[i], a[i + 1]
        for k in range(0, whole, 4):
            b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
            a00, a01, a02, a03 = a0[k], a0[k + 1], a0[k + 2], a0[k + 3]
            a10, a11, a12, a13 = a1[k], a1[k + 1], a1[k + 2], a1[k + 3]
            for j in range(c.shape[1]):
                c0[j] += a00 * b0[j] + a01 * b1[j] + a02 * b2[j] + a03 * b3[j]
                c1[j] += a10 * b0[j] + a11 * b1[j] + a12 * b2[j] + a13 * b3[j]
        for k in range(whole, a.shape[1]):
            for j in range(c.shape[1]):
                c0[j] += a0[k] * b[k, j]
                c1[j] += a1[k] * b[k, j]


# ---- the micro-kernel -----------------------------------------------------------------------


def register_tile(a: np.ndarray, b: np.ndarray) -> Ready:
    """The micro-kernel: a tile of c stays in registers over all k, and only b and a are read."""
    return with_result(_tiles, a, b.ravel(), COLUMNS, NR)


def packed_panels(a: np.ndarray, b: np.ndarray) -> Ready:
    """Pack b in panels: a tile reads contiguous memory instead of parts of b's long rows."""
    return with_result(_tiles, a, panels_of(b), NR, DEPTH * NR)


@numba.njit
def _tiles(c, a, b, b_row, b_step):
    rows, columns = c.shape
    depth = a.shape[1]
    c, a = c.ravel(), a.ravel()
    for j in range(0, columns, TILE_PANELS * NR):
        for i in range(0, rows, TILE_ROWS):
            tile(
                PLAIN,
                TILE_ROWS,
                TILE_PANELS,
                operand(c, i * columns + j, columns, NR),
                operand(a, i * depth, depth, 1),
                operand(b, j // NR * b_step, b_row, b_step),
                0,
                depth,
                False,
                np.float32(0),
            )


def cache_blocks(a: np.ndarray, b: np.ndarray) -> Ready:
    """Blocks of k, so that a tile's panels stay in the L1 cache: fastnn's `multiply`."""
    return with_result(_cache_blocks, a, panels_of(b))


@numba.njit
def _cache_blocks(c, a, b):
    rows, columns = c.shape
    depth = a.shape[1]
    multiply(
        operand(c.ravel(), 0, columns, NR),
        operand(a.ravel(), 0, depth, 1),
        operand(b, 0, NR, depth * NR),
        rows,
        columns // NR,
        depth,
    )


def panels_of(b: np.ndarray) -> np.ndarray:
    """Return b (DEPTH, COLUMNS) as flat panels of NR columns."""
    return aligned(b.reshape(DEPTH, -1, NR).swapaxes(0, 1)).ravel()


# ---- zeros ----------------------------------------------------------------------------------


def zeros_skipped(a: np.ndarray, b: np.ndarray) -> Ready:
    """Only the k where a tile's rows are not all zero: fastnn's first layer with its lists."""
    layout = Layout(dense_layers([DEPTH - 1, COLUMNS]), LOSSES["cross_entropy"], ROWS)
    buffers = Workspace(layout, ROWS, threads=1, input_scale=1.0, loss=0)
    layout.write(buffers.parameters, [(b[:-1], b[-1])])
    layer, stride = layout.table[0], buffers.job.mask_stride
    x_rows, c_rows = (
        buffers.scratch[layer[start] :][: ROWS * layer[row]].reshape(ROWS, -1)
        for start, row in (("x", "x_row"), ("z", "z_row"))
    )
    c_rows[:], x_rows[:, :DEPTH] = np.nan, a
    operands = buffers.scratch, buffers.parameters, layout.table, buffers.masks, buffers.lists
    return Ready(lambda: _zeros_skipped(*operands, stride), c_rows[:, :COLUMNS])


@numba.njit
def _zeros_skipped(workspace, parameters, table, masks, lists, stride):
    layer = table[0]
    # Pointers as in the kernels; Numba's arrays would take a fifth longer.
    workspace = array_at(address_in(workspace, 0), len(workspace), np.float32)
    parameters = array_at(address_in(parameters, 0), len(parameters), np.float32)
    masks = array_at(address_in(masks, 0), len(masks), np.uint16)
    lists = array_at(address_in(lists, 0), len(lists), np.int32)
    for row in range(ROWS):
        write_masks(masks, stride, row, workspace, layer.x + row * layer.x_row, DEPTH)
    for first in range(0, ROWS, ROW_BLOCK):
        dense_forward_listed(
            workspace, parameters, layer, first, ROW_BLOCK, masks, stride, lists, 0
        )


RUNGS: dict[str, Callable[[np.ndarray, np.ndarray], Ready]] = {
    "plain i-j-k loops": plain_loops,
    "i-k-j loops, vectors": loops_over_rows,
    "unrolled by hand": unrolled_by_hand,
    "register tile": register_tile,
    "packed panels": packed_panels,
    "cache blocks": cache_blocks,
    "zeros skipped": zeros_skipped,
}
