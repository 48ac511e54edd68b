"""The kernels' parts, one by one: micro-kernel, product, exp, denormals, layout, loss."""

import math
from fractions import Fraction

import numba
import numpy as np
import pytest
from numba import types
from numba.extending import intrinsic
from tolerances import assert_product

from fastnn.kernels import _simd
from fastnn.kernels._gemm import DEPTH_BLOCK, multiply
from fastnn.kernels._simd import NR, flush_denormals, fma, restore_denormals
from fastnn.kernels._tile import emit_call, operand
from fastnn.kernels.layout import Layout
from fastnn.kernels.losses import exp, softmax_cross_entropy_backward, softmax_cross_entropy_forward
from fastnn.kernels.workspace import Workspace, aligned_zeros
from fastnn.layers import dense_layers

jitted = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="about compiled code alone")

# Kernels have no wrapper for Python; these do nothing but call them.


@numba.njit
def call_multiply(c, a, b, rows, panels, depth):
    multiply(operand(*c), operand(*a), operand(*b), rows, panels, depth)


@numba.njit
def call_exp(out, x):
    for i in range(len(x)):
        out[i] = exp(x[i])


@numba.njit
def call_fma(out, x, y, z):
    for i in range(len(x)):
        out[i] = fma(x[i], y[i], z[i])


@numba.njit
def call_denormals(out, x, flush):
    state = flush_denormals() if flush else 0
    for i in range(len(x)):
        out[i] = x[i] * np.float32(0.5)
    if flush:
        restore_denormals(state)


@numba.njit
def call_loss(losses, hits, workspace, table, labels, first, rows, batch_rows):
    layer = table[len(table) - 1]
    softmax_cross_entropy_forward(losses, hits, workspace, layer, labels, first, rows)
    softmax_cross_entropy_backward(workspace, layer, labels, first, rows, np.float32(batch_rows))


def to_panels(matrix):
    """(K, N) as flat panels of NR columns, padded with zeros."""
    count = -(-matrix.shape[1] // NR)
    padded = np.zeros((len(matrix), count * NR), np.float32)
    padded[:, : matrix.shape[1]] = matrix
    return padded.reshape(len(matrix), count, NR).swapaxes(0, 1).ravel().copy()


def product(a, b, transposed=False):
    """``a @ b`` by `multiply`, into a poisoned result with guard cells that must survive."""
    rows, depth = a.shape
    panels = -(-b.shape[1] // NR)
    stride = panels * NR + 3
    c = np.full((rows + 2) * stride, np.nan, np.float32)
    left = (a.T if transposed else a).copy().ravel()
    a_row, a_step = (1, rows) if transposed else (depth, 1)
    call_multiply(
        (c, stride, stride, NR), (left, 0, a_row, a_step), (to_panels(b), 0, NR, depth * NR),
        rows, panels, depth,
    )  # fmt: skip
    table = c.reshape(rows + 2, stride)
    assert np.isnan(table[[0, -1]]).all() and np.isnan(table[:, panels * NR :]).all()
    return table[1:-1, : b.shape[1]]


SHAPES = [(1, 1, 1), (2, 3, 16), (3, 1, 17), (5, 7, 33), (8, 300, 32), (15, 64, 48), (17, 600, 50)]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("rows", "depth", "columns"), SHAPES)
def test_product_of_whole_numbers_is_exact(rng, rows, depth, columns, transposed):
    a = rng.integers(-9, 10, (rows, depth)).astype(np.float32)
    b = rng.integers(-9, 10, (depth, columns)).astype(np.float32)
    assert (product(a, b, transposed) == a.astype(int) @ b.astype(int)).all()


@pytest.mark.parametrize(("rows", "depth", "columns"), [(9, 64, 20), (16, 785, 32)])
def test_product_is_within_its_rounding_bound(rng, rows, depth, columns):
    a = rng.standard_normal((rows, depth), dtype=np.float32)
    b = rng.standard_normal((depth, columns), dtype=np.float32)
    assert_product(product(a, b), a, b)


def test_product_keeps_nan_and_infinity():
    a = np.array([[1, np.nan], [1, np.inf], [1, 2]], np.float32)
    c = product(a, np.ones((2, 5), np.float32))
    assert np.isnan(c[0]).all() and np.isposinf(c[1]).all() and (c[2] == 3).all()


def test_element_is_one_chain_of_fused_multiply_adds(rng):
    """The promise behind equal bits: the order of a sum is k = 0, 1, …, wherever it is cut."""
    depth = 2 * DEPTH_BLOCK + 7
    a = rng.standard_normal((1, depth), dtype=np.float32)
    b = rng.standard_normal((depth, 1), dtype=np.float32)
    chain = np.zeros(1, np.float32)
    for k in range(depth):
        call_fma(chain, a[0, k : k + 1], b[k], chain.copy())
    assert product(a, b)[0, 0] == chain[0]


def tile_of(rows, panels, lanes):
    """A compiled tile of any size, not only of this machine's."""

    @intrinsic
    def sized_tile(typingctx, c, a, b, depth, resume, rate):
        signature = types.void(c, a, b, types.intp, types.boolean, types.float32)

        def codegen(context, builder, signature, args):
            emit_call(builder, args[:3], None, *args[3:], (rows, panels, lanes))
            return context.get_dummy_value()

        return signature, codegen

    @numba.njit
    def call(c, a, b, depth, rate):
        sized_tile(operand(*c), operand(*a), operand(*b), depth, False, np.float32(0))
        sized_tile(operand(*c), operand(*a), operand(*b), depth, rate == 0, rate)

    return call


@jitted
@pytest.mark.parametrize(
    ("rows", "panels", "lanes"), [(8, 2, 16), (4, 1, 8), (6, 1, 8), (2, 1, 4), (1, 2, 16)]
)
def test_tiles_of_any_size_agree_to_the_bit(rng, rows, panels, lanes):
    depth = 37
    a = rng.standard_normal((rows, depth), dtype=np.float32)
    b = rng.standard_normal((depth, panels * NR), dtype=np.float32)
    c = np.full((rows, panels * NR), np.nan, np.float32)
    operands = (
        (c.ravel(), 0, panels * NR, NR),
        (a.ravel(), 0, depth, 1),
        (to_panels(b), 0, NR, depth * NR),
    )
    multiply_tile = tile_of(rows, panels, lanes)
    multiply_tile(*operands, depth, np.float32(0))
    twice = product(np.hstack([a, a]), np.vstack([b, b]))  # the second half resumes the chain
    assert (c == twice).all()
    rate, once, stepped = np.float32(0.3), product(a, b), np.empty_like(c)
    multiply_tile(*operands, depth, rate)
    call_fma(stepped.ravel(), np.full(c.size, -rate), once.ravel(), once.ravel())
    assert (c == stepped).all()


def test_fma_rounds_once(rng):
    x, y, z = rng.standard_normal((3, 200), dtype=np.float32)
    z[:100] = -(x * y)[:100]  # what is left is the product's rounding error
    out = np.empty_like(x)
    call_fma(out, x, y, z)
    for i in range(len(x)):
        exact = Fraction(float(x[i])) * Fraction(float(y[i])) + Fraction(float(z[i]))
        if _simd.HAS_FMA and not numba.config.DISABLE_JIT:
            assert out[i] == np.float32(float(exact))
        else:
            assert abs(out[i] - float(exact)) <= 2**-23 * (abs(x[i] * y[i]) + abs(z[i]))


def test_exp_is_within_two_units_in_the_last_place():
    x = np.concatenate([np.linspace(-87.29, 88.29, 40_001), np.linspace(-1, 1, 4_001), [0.0]])
    x = x.astype(np.float32)
    out = np.empty_like(x)
    call_exp(out, x)
    exact = np.exp(x.astype(np.float64))
    ulp = np.spacing(exact.astype(np.float32)).astype(np.float64)
    assert np.max(np.abs(out - exact) / ulp) <= 2.0
    assert out[-1] == 1.0


def test_exp_at_the_ends():
    x = np.array([-np.inf, -1e30, -88.0, np.nan], np.float32)
    out = np.empty_like(x)
    call_exp(out, x)
    assert (out[:3] == 0).all() and np.isnan(out[3])


@jitted
def test_denormals_are_flushed_inside_and_kept_outside():
    tiny = np.full(64, 1e-40, np.float32)
    out = np.empty_like(tiny)
    call_denormals(out, tiny, True)
    assert (out == 0).all()
    call_denormals(out, tiny, False)
    assert (out > 0).all()
    assert (tiny * np.float32(0.5) > 0).all()  # NumPy on this thread is as it was


@pytest.mark.parametrize("sizes", [[1, 1], [5, 3], [16, 16, 16], [3, 17, 33, 2], [40, 1, 31]])
def test_layout_brings_parameters_there_and_back(rng, sizes):
    layers = dense_layers(sizes)
    parameters = [
        (rng.standard_normal((n, m), dtype=np.float32), rng.standard_normal(m, dtype=np.float32))
        for n, m in zip(sizes[:-1], sizes[1:], strict=True)
    ]
    layout = Layout(layers, rows=8)
    flat, transposed = aligned_zeros(layout.parameters_size), aligned_zeros(layout.transposed_size)
    layout.write(flat, parameters)
    layout.write_transposed(transposed, parameters)
    for (w, b), (got_w, got_b) in zip(parameters, layout.read(flat), strict=True):
        assert (got_w == w).all() and (got_b == b).all()
    assert np.count_nonzero(flat) == sum(w.size + b.size for w, b in parameters)  # padding is 0
    for row, (w, _) in zip(layout.table[1:], parameters[1:], strict=True):
        outputs = row["panels"] * NR
        panels = transposed[row["transposed"] :][: row["transposed_panels"] * outputs * NR]
        columns = panels.reshape(-1, outputs, NR).swapaxes(0, 1).reshape(outputs, -1)
        assert (columns[: row["outputs"], : row["inputs"]] == w.T).all()


def test_layout_lets_no_two_buffers_overlap_and_aligns_each():
    layout = Layout(dense_layers([7, 20, 16, 3]), rows=8)
    starts = sorted(
        {(int(r[at]), 8 * int(r[at + "_row"])) for r in layout.table for at in ("a", "dz")}
    )
    ends = [start + size for start, size in starts]
    assert ends == [start for start, _ in starts[1:]] + [layout.workspace_size]
    assert all(start % NR == 0 for start, _ in starts)


def test_buffers_begin_on_cache_lines():
    buffers = Workspace(Layout(dense_layers([5, 4, 3]), rows=8), 8, 1, 1.0)
    for name in ("parameters", "gradients", "transposed", "scratch", "blocks", "losses"):
        assert getattr(buffers, name).ctypes.data % 64 == 0


@pytest.mark.parametrize("classes", [1, 2, 10, 16, 17])
def test_loss_and_its_gradient(rng, classes):
    rows, batch_rows = 9, 20
    layout = Layout(dense_layers([4, classes]), rows)
    row = layout.table[-1]
    buffers = Workspace(layout, rows, 1, 1.0)
    buffers.scratch[:] = np.nan
    z = buffers.scratch[row["z"] :][: rows * row["z_row"]].reshape(rows, -1)
    z[:, : row["panels"] * NR] = 0
    logits = 30 * rng.standard_normal((rows, classes), dtype=np.float32)
    logits[0], logits[1] = 3e38, np.linspace(-3e38, 0, classes)  # overflow if done naively
    z[:, :classes] = logits
    labels = rng.integers(0, classes, rows).astype(np.int32)
    exact = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_total = np.log(np.exp(exact).sum(axis=1))
    loss = log_total - exact[np.arange(rows), labels]
    call_loss(
        buffers.losses, buffers.hits, buffers.scratch, layout.table, labels, 2, rows - 2, batch_rows
    )
    # log Σ: relative error of a few roundings of numbers up to |exact|
    assert (abs(buffers.losses - loss)[2:] <= 8 * 2**-24 * (1 + abs(exact).max(axis=1))[2:]).all()
    assert (buffers.hits == (logits.argmax(axis=1) == labels))[2:].all()
    probs = np.exp(exact - log_total[:, None])
    dz = (probs - np.eye(classes)[labels]) / batch_rows
    got = z[2:, : row["panels"] * NR]
    spread = 1 + abs(exact[2:]).max(axis=1, keepdims=True)  # exp turns absolute into relative
    assert (abs(got[:, :classes] - dz[2:]) <= 4 * 2**-24 * spread / batch_rows).all()
    assert (got[:, classes:] == 0).all()
    assert (z[:2, :classes] == logits[:2]).all()  # rows outside the block are untouched
    assert math.isfinite(buffers.losses.sum())


@jitted
def test_kernels_hold_no_double():
    """A literal like 0.5 is a float64 and would drag a whole loop to half its width."""
    from fastnn.kernels.regions import rows_region
    from fastnn.kernels.weights import weights_region

    for region in (rows_region, weights_region):
        compiled = numba.cfunc(types.void(types.int64, types.int64), error_model="numpy")(region)
        assert "double" not in compiled.inspect_llvm()
