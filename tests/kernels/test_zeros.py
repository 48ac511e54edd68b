"""Lists of nonzero features, and products over these lists."""

import numba
import numpy as np
import pytest
from blocks import NO_RATE, block_operand, buffers_of, collect_blocks

from fastnn.kernels.gemm.tile import LISTED_INPUTS, LISTED_SAMPLES, operand
from fastnn.kernels.jit.simd import NR
from fastnn.kernels.layers import dense, zeros
from fastnn.kernels.workspace import ROW_BLOCK


@numba.njit
def call_write_masks(masks, stride, row, workspace, at, width):
    zeros.write_masks(masks, stride, row, workspace, at, width)


@numba.njit
def call_list_inputs(lists, at, masks, stride, row, rows, low, high):
    zeros.list_inputs(lists, at, masks, stride, row, rows, low, high)


@numba.njit
def call_list_rows(lists, at, masks, stride, low, rows):
    zeros.list_rows(lists, at, masks, stride, low, rows)


@numba.njit
def call_forward(workspace, parameters, table, first, rows, masks, stride, lists):
    dense.dense_forward_listed(
        workspace, parameters, table[0], first, rows, masks, stride, lists, 0
    )


@numba.njit
def call_backward(c, workspace, table, low, high, panel, panels, rows, masks, stride, lists, rate):
    dense.list_block(lists, 0, masks, stride, low, high, rows)
    dense.dense_backward_weights_listed(
        operand(*c), workspace, table[0], low, high, panel, panels, rows, rate, lists, 0
    )


class MaskedRows:
    """Rows in the workspace of a network of one layer, with masks; all else is NaN or invalid."""

    def __init__(self, x, outputs):
        rows, inputs = x.shape
        self.x, self.rows, self.width = x, rows, inputs + 1
        self.layout, self.buffers = buffers_of([inputs, outputs], rows)
        for name in ("scratch", "gradients"):
            getattr(self.buffers, name)[:] = np.nan
        self.buffers.masks[:], self.buffers.lists[:] = 0xFFFF, -1
        self.stride = self.buffers.job.mask_stride
        self.layer = self.layout.table[0]
        self.scratch_x = self.view("x")
        self.scratch_x[:, :inputs], self.scratch_x[:, inputs] = x, 1
        for row in range(rows):
            at = self.layer["x"] + row * self.layer["x_row"]
            call_write_masks(
                self.buffers.masks, self.stride, row, self.buffers.scratch, at, self.width
            )

    def view(self, name):
        size = self.rows * self.layer[f"{name}_row"]
        return self.buffers.scratch[self.layer[name] :][:size].reshape(self.rows, -1)


def sparse(rng, rows, inputs):
    """Return integers, most of which are 0."""
    return (rng.integers(-9, 10, (rows, inputs)) * (rng.random((rows, inputs)) < 0.2)).astype("f4")


SHAPES = [(1, 1), (3, 15), (8, 16), (9, 17), (70, 63), (100, 800)]


@pytest.mark.parametrize(("rows", "inputs"), SHAPES)
def test_lists_inputs_of_a_tile(rng, rows, inputs):
    masked = MaskedRows(sparse(rng, rows, inputs), 1)
    lists, masks, stride = masked.buffers.lists, masked.buffers.masks, masked.stride
    groups = -(-masked.width // NR)
    for row in range(0, rows, LISTED_SAMPLES):
        height = min(LISTED_SAMPLES, rows - row)
        for low in range(0, groups, zeros.BLOCK_GROUPS):
            high = min(groups, low + zeros.BLOCK_GROUPS)
            call_list_inputs(lists, 3, masks, stride, row, height, low, high)
            part = slice(low * NR, min(masked.width, high * NR))
            used = np.flatnonzero((masked.scratch_x[row : row + height, part] != 0).any(axis=0))
            assert lists[3] == len(used)
            assert (lists[4:][: len(used)] == low * NR + used).all()


@pytest.mark.parametrize(("rows", "inputs"), SHAPES)
def test_lists_rows_of_a_tile(rng, rows, inputs):
    masked = MaskedRows(sparse(rng, rows, inputs), 1)
    lists, masks, stride = masked.buffers.lists, masked.buffers.masks, masked.stride
    used = masked.scratch_x[:, : masked.width] != 0
    for low in range(0, masked.width, LISTED_INPUTS):
        call_list_rows(lists, 3, masks, stride, low, rows)
        expected = np.flatnonzero(used[:, low : low + LISTED_INPUTS].any(axis=1))
        assert lists[3] == len(expected)
        assert (lists[4:][: len(expected)] == expected).all()


@pytest.mark.parametrize("outputs", [1, 16, 33, 100])
@pytest.mark.parametrize(("rows", "inputs"), SHAPES)
def test_products_over_lists_of_integers_are_exact(rng, rows, inputs, outputs):
    """Forward pass and gradient of the weights, as in `test_dense`."""
    masked = MaskedRows(sparse(rng, rows, inputs), outputs)
    w = rng.integers(-9, 10, (inputs, outputs)).astype(np.float32)
    b, dz = rng.integers(-9, 10, outputs).astype("f4"), rng.integers(-9, 10, (rows, outputs))
    buffers, layer = masked.buffers, masked.layer
    masked.layout.write(buffers.parameters, [(w, b)])
    common = buffers.masks, masked.stride, buffers.lists
    for first in range(0, rows, ROW_BLOCK):
        block = min(ROW_BLOCK, rows - first)
        call_forward(
            buffers.scratch, buffers.parameters, masked.layout.table, first, block, *common
        )
    assert (masked.view("z")[:, :outputs] == masked.x @ w + b).all()
    masked.view("dz")[:, : layer["panels"] * NR] = 0
    masked.view("dz")[:, :outputs] = dz

    def compute(*place):
        c = block_operand(buffers)
        call_backward(c, buffers.scratch, masked.layout.table, *place, rows, *common, NO_RATE)

    collect_blocks(buffers, layer, inputs // NR // 2 * NR, compute)
    ((dw, db),) = masked.layout.read(buffers.gradients)
    assert (dw == masked.x.T @ dz).all() and (db == dz.sum(axis=0)).all()


def test_zeros_are_skipped_only_if_there_are_enough(rng):
    assert zeros.estimate_group_work(np.ones((64, 3), np.float32)) is None
    assert zeros.estimate_group_work(np.zeros((1000, 784), np.uint8)) is not None
    assert zeros.estimate_group_work((rng.random((500, 100)) < 0.5).astype(np.uint8)) is None
    assert zeros.estimate_group_work((rng.random((500, 100)) < 0.02).astype(np.float32)) is not None


@pytest.mark.parametrize("inputs", [1, 15, 16, 100, 784])
@pytest.mark.parametrize("tasks", [1, 2, 3, 7, 60])
def test_tasks_share_all_groups_evenly(rng, inputs, tasks):
    x = np.zeros((64, inputs), np.uint8)
    x[:, inputs // 3 : inputs // 2] = rng.random((64, inputs // 2 - inputs // 3)) < 0.3
    work = zeros.estimate_group_work(x)
    assert len(work) == -(-(inputs + 1) // NR) and (work > 0).all()
    cuts = zeros.balance(work, tasks)
    assert cuts[0] == 0 and cuts[-1] == len(work) and (np.diff(cuts) >= 0).all()
    done = [work[low:high].sum() for low, high in zip(cuts[:-1], cuts[1:], strict=True)]
    assert max(done) <= work.sum() / tasks + work.max()
