"""The dense layer of both engines: exact for integers, within bounds for other numbers."""

import numba
import numpy as np
import pytest
from blocks import NO_RATE, block_operand, buffers_of, collect_blocks
from tolerances import assert_product

from fastnn import kernels, reference
from fastnn.kernels.gemm.tile import operand
from fastnn.kernels.jit.simd import NR
from fastnn.kernels.layers import dense
from fastnn.reference import dense as plain_dense

ENGINES = [reference, kernels]
SHAPES = [(1, 1, 1), (4, 1, 3), (3, 5, 1), (7, 16, 16), (9, 33, 17), (65, 300, 40), (128, 31, 100)]


@numba.njit
def call_forward(scratch, parameters, table, i, first, rows):
    dense.dense_forward(scratch, parameters, table[i], first, rows)


@numba.njit
def call_backward_input(scratch, transposed, table, i, first, rows):
    dense.dense_backward_input(scratch, transposed, table[i], table[i - 1], first, rows)


@numba.njit
def call_backward_weights(c, scratch, table, i, low, high, panel, panels, rows, rate):
    dense.dense_backward_weights(
        operand(*c), scratch, table[i], low, high, panel, panels, rows, rate
    )


@numba.njit
def call_transpose(transposed, parameters, table, i, low, high, panel):
    dense.transpose(transposed, parameters, table[i], low, high, panel)


class Layer:
    """A layer in buffers that are filled with NaN, with views of its matrices."""

    def __init__(self, rows, inputs, outputs):
        self.layout, self.buffers = buffers_of([3, inputs, outputs], rows)
        self.buffers.scratch[:] = np.nan
        self.buffers.gradients[:] = np.nan
        self.table, self.row, self.previous = self.layout.table, *self.layout.table[::-1]
        self.rows = rows
        self.matrix(self.row, "x", inputs)[:] = 0
        self.view("x", self.row)[:, inputs] = 1

    def view(self, name, row):
        size = self.rows * row[f"{name}_row"]
        return self.buffers.scratch[row[name] :][:size].reshape(self.rows, -1)

    def matrix(self, row, name, width):
        return self.view(name, row)[:, :width]

    def set_weights(self, w, b):
        dummy = np.zeros((3, len(w)), np.float32), np.zeros(len(w), np.float32)
        self.layout.write(self.buffers.parameters, [dummy, (w, b)])
        self.layout.write_transposed(self.buffers.transposed, [dummy, (w, b)])

    def set_dz(self, dz):
        """Write dz, and zeros to the lanes past the width, as the loss and ReLU do."""
        self.view("dz", self.row)[:, : self.row["panels"] * NR] = 0
        self.matrix(self.row, "dz", dz.shape[1])[:] = dz


def forward(engine, x, w, b):
    if engine is reference:
        z = np.empty((len(x), w.shape[1]), np.float32)
        plain_dense.dense_forward(z, x, w, b)
        return z
    layer = Layer(len(x), *w.shape)
    layer.set_weights(w, b)
    layer.matrix(layer.row, "x", w.shape[0])[:] = x
    half = len(x) // 2  # two blocks of rows, as with two tasks
    for first, rows in ((0, half), (half, len(x) - half)):
        call_forward(layer.buffers.scratch, layer.buffers.parameters, layer.table, 1, first, rows)
    padding = layer.view("z", layer.row)[:, w.shape[1] : layer.row["panels"] * NR]
    assert (padding == 0).all()
    return layer.matrix(layer.row, "z", w.shape[1])


def backward_weights(engine, dz, x):
    inputs, outputs = x.shape[1], dz.shape[1]
    if engine is reference:
        dw, db = np.empty((inputs, outputs), np.float32), np.empty(outputs, np.float32)
        plain_dense.dense_backward_weights(dw, db, dz, x)
        return dw, db
    layer = Layer(len(x), inputs, outputs)
    layer.matrix(layer.row, "x", inputs)[:] = x
    layer.set_dz(dz)

    def compute(*block):
        c = block_operand(layer.buffers)
        call_backward_weights(c, layer.buffers.scratch, layer.table, 1, *block, len(x), NO_RATE)

    collect_blocks(layer.buffers, layer.row, (inputs + 1) // 2, compute)
    panels = layer.layout.panels(layer.buffers.gradients, 1)
    assert (panels.swapaxes(0, 1).reshape(inputs + 1, -1)[:, outputs:] == 0).all()
    return layer.layout.read(layer.buffers.gradients)[1]


def backward_input(engine, dz, w):
    if engine is reference:
        dx = np.empty((len(dz), len(w)), np.float32)
        plain_dense.dense_backward_input(dx, dz, w)
        return dx
    layer = Layer(len(dz), *w.shape)
    layer.set_weights(w, np.zeros(w.shape[1], np.float32))
    layer.set_dz(dz)
    buffers = layer.buffers
    call_backward_input(buffers.scratch, buffers.transposed, layer.table, 1, 0, len(dz))
    return layer.matrix(layer.previous, "dz", len(w))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_products_of_integers_are_exact(rng, engine, rows, inputs, outputs):
    """All sums are below 2**24, so none is rounded."""
    x, w, b, dz = (
        rng.integers(-9, 10, shape).astype(np.float32)
        for shape in ((rows, inputs), (inputs, outputs), outputs, (rows, outputs))
    )
    exact_x, exact_w, exact_dz = x.astype(int), w.astype(int), dz.astype(int)
    assert (forward(engine, x, w, b) == exact_x @ exact_w + b.astype(int)).all()
    dw, db = backward_weights(engine, dz, x)
    assert (dw == exact_x.T @ exact_dz).all() and (db == exact_dz.sum(axis=0)).all()
    assert (backward_input(engine, dz, w) == exact_dz @ exact_w.T).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(9, 64, 20), (100, 785, 33)])
def test_rounding_errors_are_within_bounds(rng, engine, rows, inputs, outputs):
    x, w, b, dz = (
        rng.standard_normal(shape, dtype=np.float32)
        for shape in ((rows, inputs), (inputs, outputs), outputs, (rows, outputs))
    )
    ones = np.ones((rows, 1), np.float32)
    assert_product(forward(engine, x, w, b), np.hstack([x, ones]), np.vstack([w, b]))
    dw, db = backward_weights(engine, dz, x)
    assert_product(dw, x.T, dz)
    assert_product(db[None], ones.T, dz)
    assert_product(backward_input(engine, dz, w), dz, w.T)


def test_transpose_copies_the_weights(rng):
    layer = Layer(4, 21, 18)
    w, b = rng.standard_normal((21, 18), dtype=np.float32), np.ones(18, np.float32)
    layer.set_weights(w, b)
    expected = layer.buffers.transposed.copy()
    layer.buffers.transposed[:] = 0
    for low, high in ((0, 16), (16, 22)):  # row 21 is the bias, which is not copied
        for panel in (0, 1):
            call_transpose(
                layer.buffers.transposed, layer.buffers.parameters, layer.table, 1, low, high, panel
            )
    assert (layer.buffers.transposed == expected).all()
