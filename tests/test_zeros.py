"""Lists of what is not zero, and the products that run over them."""

import numba
import numpy as np
import pytest

from fastnn.kernels import dense, zeros
from fastnn.kernels._simd import NR
from fastnn.kernels._tile import LISTED_ROWS, TILE_ROWS
from fastnn.kernels.layout import Layout
from fastnn.kernels.workspace import ROW_BLOCK, Workspace
from fastnn.layers import dense_layers


@numba.njit
def call_mark(masks, stride, row, workspace, at, width):
    zeros.mark(masks, stride, row, workspace, at, width)


@numba.njit
def call_list_inputs(lists, start, masks, stride, row, rows, width):
    zeros.list_inputs(lists, start, masks, stride, row, rows, width)


@numba.njit
def call_list_rows(lists, start, masks, stride, group, strip, rows):
    return zeros.list_rows(lists, start, masks, stride, group, strip, rows)


@numba.njit
def call_forward(workspace, parameters, table, first, rows, masks, stride, lists):
    dense.dense_forward_listed(
        workspace, parameters, table[0], first, rows, masks, stride, lists, 0
    )


@numba.njit
def call_backward(gradients, workspace, table, low, high, rows, masks, stride, lists):
    dense.dense_backward_weights_listed(
        gradients, workspace, table[0], low, high, rows, masks, stride, lists, 0
    )


class Marked:
    """Rows in the workspace of a network of one layer, marked; everything else is poisoned."""

    def __init__(self, x, outputs):
        rows, inputs = x.shape
        self.x, self.rows, self.width = x, rows, inputs + 1
        self.layout = Layout(dense_layers([inputs, outputs]), rows)
        self.buffers = Workspace(self.layout, rows, 1, 1.0)
        for name in ("scratch", "gradients"):
            getattr(self.buffers, name)[:] = np.nan
        self.buffers.masks[:], self.buffers.lists[:] = 0xFFFF, -1
        self.stride = self.buffers.job.mask_stride
        self.layer = self.layout.table[0]
        self.a = self.view("a")
        self.a[:, :inputs], self.a[:, inputs] = x, 1
        for row in range(rows):
            at = self.layer["a"] + row * self.layer["a_row"]
            call_mark(self.buffers.masks, self.stride, row, self.buffers.scratch, at, self.width)

    def view(self, name):
        size = self.rows * self.layer[f"{name}_row"]
        return self.buffers.scratch[self.layer[name] :][:size].reshape(self.rows, -1)


def sparse(rng, rows, inputs):
    """Whole numbers, most of them 0."""
    return (rng.integers(-9, 10, (rows, inputs)) * (rng.random((rows, inputs)) < 0.2)).astype("f4")


SHAPES = [(1, 1), (3, 15), (8, 16), (9, 17), (70, 63), (100, 800)]


@pytest.mark.parametrize(("rows", "inputs"), SHAPES)
def test_inputs_that_a_tile_uses(rng, rows, inputs):
    marked = Marked(sparse(rng, rows, inputs), 1)
    for row in range(0, rows, TILE_ROWS):
        height = min(TILE_ROWS, rows - row)
        lists = marked.buffers.lists
        call_list_inputs(lists, 0, marked.buffers.masks, marked.stride, row, height, marked.width)
        used = np.flatnonzero((marked.a[row : row + height, : marked.width] != 0).any(axis=0))
        blocks = -(-marked.width // (zeros.BLOCK_GROUPS * NR))
        begins = lists[: blocks + 1]
        assert (lists[begins[0] : begins[-1]] == used).all()
        cuts = [np.searchsorted(used, n * zeros.BLOCK_GROUPS * NR) for n in range(blocks)]
        assert (begins - begins[0] == [*cuts, len(used)]).all()


@pytest.mark.parametrize(("rows", "inputs"), SHAPES)
def test_rows_that_a_strip_uses(rng, rows, inputs):
    marked = Marked(sparse(rng, rows, inputs), 1)
    used = np.zeros((rows, -(-marked.width // NR) * NR), bool)
    used[:, : marked.width] = marked.a[:, : marked.width] != 0
    for group in range(used.shape[1] // NR):
        for strip in range(zeros.STRIPS):
            lists = marked.buffers.lists
            count = call_list_rows(
                lists, 0, marked.buffers.masks, marked.stride, group, strip, rows
            )
            column = group * NR + strip * LISTED_ROWS
            expected = np.flatnonzero(used[:, column : column + LISTED_ROWS].any(axis=1))
            assert (lists[:count] == expected).all() and count == len(expected)


@pytest.mark.parametrize("outputs", [1, 16, 33, 100])
@pytest.mark.parametrize(("rows", "inputs"), SHAPES)
def test_products_over_lists_are_exact(rng, rows, inputs, outputs):
    """On whole numbers, like `test_dense`: forward, and backward to the weights."""
    marked = Marked(sparse(rng, rows, inputs), outputs)
    w = rng.integers(-9, 10, (inputs, outputs)).astype(np.float32)
    b, dz = rng.integers(-9, 10, outputs).astype("f4"), rng.integers(-9, 10, (rows, outputs))
    buffers, layer = marked.buffers, marked.layer
    marked.layout.write(buffers.parameters, [(w, b)])
    common = buffers.masks, marked.stride, buffers.lists
    for first in range(0, rows, ROW_BLOCK):
        block = min(ROW_BLOCK, rows - first)
        call_forward(
            buffers.scratch, buffers.parameters, marked.layout.table, first, block, *common
        )
    assert (marked.view("z")[:, :outputs] == marked.x @ w + b).all()
    marked.view("dz")[:, : layer["panels"] * NR] = 0
    marked.view("dz")[:, :outputs] = dz
    middle = (inputs // NR // 2) * NR
    for low, high in ((0, middle), (middle, inputs + 1)):
        call_backward(
            buffers.gradients, buffers.scratch, marked.layout.table, low, high, rows, *common
        )
    ((dw, db),) = marked.layout.read(buffers.gradients)
    assert (dw == marked.x.T @ dz).all() and (db == dz.sum(axis=0)).all()


def test_a_sample_tells_whether_skipping_pays(rng):
    assert not zeros.worth_skipping(np.ones((64, 3), np.float32))
    assert zeros.worth_skipping(np.zeros((1000, 784), np.uint8))
    assert not zeros.worth_skipping((rng.random((500, 100)) < 0.5).astype(np.uint8))
    assert zeros.worth_skipping((rng.random((500, 100)) < 0.02).astype(np.float32))
