"""Parts of the kernels: micro-kernel, products, elementary functions, layout, losses."""

from fractions import Fraction

import numba
import numpy as np
import pytest
from blocks import buffers_of
from numba import types
from numba.extending import intrinsic
from tolerances import assert_product

from fastnn.kernels.gemm.product import DEPTH_BLOCK, multiply
from fastnn.kernels.gemm.tile import PLAIN, emit_call, operand
from fastnn.kernels.jit import simd
from fastnn.kernels.jit.compiling import UNITS
from fastnn.kernels.jit.simd import NR, flush_denormals, fma, restore_denormals
from fastnn.kernels.layout import Layout
from fastnn.kernels.pointwise import elementary, losses
from fastnn.kernels.workspace import address, aligned_zeros
from fastnn.model.layers import dense_layers
from fastnn.model.losses import LOSSES

jitted = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="needs compiled code")

# Python cannot call kernels; these functions call them.


@numba.njit
def call_multiply(c, a, b, rows, panels, depth):
    multiply(operand(*c), operand(*a), operand(*b), rows, panels, depth)


def over_array(function):
    @numba.njit
    def call(out, x):
        for i in range(len(x)):
            out[i] = function(x[i])

    def evaluate(x):
        out = np.empty_like(x)
        call(out, x)
        return out

    return evaluate


exp, tanh, logistic = map(over_array, (elementary.exp, elementary.tanh, elementary.logistic))


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
def call_loss(job_address, first, rows):
    losses.loss_forward(job_address, first, rows)
    losses.loss_backward(job_address, first, rows)


@numba.njit
def call_predict(job_address, first, rows):
    losses.predict(job_address, first, rows)


def to_panels(matrix):
    """Return a matrix (K, N) as flat panels of NR columns, padded with zeros."""
    count = -(-matrix.shape[1] // NR)
    padded = np.zeros((len(matrix), count * NR), np.float32)
    padded[:, : matrix.shape[1]] = matrix
    return padded.reshape(len(matrix), count, NR).swapaxes(0, 1).ravel().copy()


def product(a, b, transposed=False):
    """Return ``a @ b`` by `multiply`; check that it writes nothing outside the result."""
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
def test_product_of_integers_is_exact(rng, rows, depth, columns, transposed):
    a = rng.integers(-9, 10, (rows, depth)).astype(np.float32)
    b = rng.integers(-9, 10, (depth, columns)).astype(np.float32)
    assert (product(a, b, transposed) == a.astype(int) @ b.astype(int)).all()


@pytest.mark.parametrize(("rows", "depth", "columns"), [(9, 64, 20), (16, 785, 32)])
def test_product_is_within_its_rounding_bound(rng, rows, depth, columns):
    a = rng.standard_normal((rows, depth), dtype=np.float32)
    b = rng.standard_normal((depth, columns), dtype=np.float32)
    assert_product(product(a, b), a, b)


def test_product_propagates_nan_and_infinity():
    a = np.array([[1, np.nan], [1, np.inf], [1, 2]], np.float32)
    c = product(a, np.ones((2, 5), np.float32))
    assert np.isnan(c[0]).all() and np.isposinf(c[1]).all() and (c[2] == 3).all()


def test_product_is_one_chain_of_multiply_adds(rng):
    """The sum is in the order k = 0, 1, …, even if it is longer than a block."""
    depth = 2 * DEPTH_BLOCK + 7
    a = rng.standard_normal((1, depth), dtype=np.float32)
    b = rng.standard_normal((depth, 1), dtype=np.float32)
    chain = np.zeros(1, np.float32)
    for k in range(depth):
        call_fma(chain, a[0, k : k + 1], b[k], chain.copy())
    assert product(a, b)[0, 0] == chain[0]


def tile_of(rows, panels, lanes):
    """Return a compiled tile of any size, not only of this machine's."""

    @intrinsic
    def sized_tile(typingctx, c, a, b, depth, resume, rate):
        signature = types.void(c, a, b, types.intp, types.boolean, types.float32)

        def codegen(context, builder, signature, args):
            emit_call(builder, args[:3], None, *args[3:], (rows, panels, lanes), PLAIN)
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
def test_tiles_of_all_sizes_give_the_same_bits(rng, rows, panels, lanes):
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
    twice = product(np.hstack([a, a]), np.vstack([b, b]))  # the second half resumes the sums
    assert (c == twice).all()
    rate, once, stepped = np.float32(0.3), product(a, b), np.empty_like(c)
    multiply_tile(*operands, depth, rate)
    call_fma(stepped.ravel(), np.full(c.size, -rate), once.ravel(), once.ravel())
    assert (c == stepped).all()


def test_fma_rounds_once(rng):
    x, y, z = rng.standard_normal((3, 200), dtype=np.float32)
    z[:100] = -(x * y)[:100]  # the result is the rounding error of the product
    out = np.empty_like(x)
    call_fma(out, x, y, z)
    for i in range(len(x)):
        exact = Fraction(float(x[i])) * Fraction(float(y[i])) + Fraction(float(z[i]))
        if simd.HAS_FMA and not numba.config.DISABLE_JIT:
            assert out[i] == np.float32(float(exact))
        else:
            assert abs(out[i] - float(exact)) <= 2**-23 * (abs(x[i] * y[i]) + abs(z[i]))


def worst_ulps(got, exact):
    """Return the largest error in units in the last place of the exact results."""
    ulp = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    return np.max(np.abs(got - exact) / ulp)


def test_exp_is_within_two_units_in_the_last_place():
    x = np.concatenate([np.linspace(-87.29, 88.29, 40_001), np.linspace(-1, 1, 4_001), [0.0]])
    x = x.astype(np.float32)
    assert worst_ulps(exp(x), np.exp(x.astype(np.float64))) <= 2.0
    assert exp(x)[-1] == 1.0


def test_exp_of_infinity_and_nan():
    out = exp(np.array([-np.inf, -1e30, -88.0, np.nan], np.float32))
    assert (out[:3] == 0).all() and np.isnan(out[3])


def test_tanh_is_within_three_units_in_the_last_place():
    sizes = np.concatenate([np.linspace(0, 12, 40_001), np.logspace(-30, 1, 20_001)])
    x = np.concatenate([sizes, -sizes]).astype(np.float32)
    assert worst_ulps(tanh(x), np.tanh(x.astype(np.float64))) <= 3.0
    assert (tanh(-x) == -tanh(x)).all()  # odd, to the bit
    ends = tanh(np.array([0.0, 50.0, np.inf, -np.inf, np.nan], np.float32))
    assert ends[:4].tolist() == [0, 1, 1, -1] and np.isnan(ends[4])


def test_logistic_is_within_three_units_in_the_last_place():
    x = np.concatenate([np.linspace(-87, 30, 40_001), np.linspace(-1, 1, 4_001)])
    x = x.astype(np.float32)
    assert worst_ulps(logistic(x), 1 / (1 + np.exp(-x.astype(np.float64)))) <= 3.0
    ends = logistic(np.array([0.0, 200.0, np.inf, np.nan], np.float32))
    assert ends[:3].tolist() == [0.5, 1, 1] and np.isnan(ends[3])
    assert (logistic(np.array([-200.0, -np.inf], np.float32)) < 1e-38).all()


@jitted
def test_denormals_are_flushed_only_inside_kernels():
    tiny = np.full(64, 1e-40, np.float32)
    out = np.empty_like(tiny)
    call_denormals(out, tiny, True)
    assert (out == 0).all()
    call_denormals(out, tiny, False)
    assert (out > 0).all()
    assert (tiny * np.float32(0.5) > 0).all()  # NumPy still has them in this thread


@pytest.mark.parametrize("sizes", [[1, 1], [5, 3], [16, 16, 16], [3, 17, 33, 2], [40, 1, 31]])
def test_layout_writes_and_reads_parameters(rng, sizes):
    layers = dense_layers(sizes)
    parameters = [
        (rng.standard_normal((n, m), dtype=np.float32), rng.standard_normal(m, dtype=np.float32))
        for n, m in zip(sizes[:-1], sizes[1:], strict=True)
    ]
    layout = Layout(layers, LOSSES["cross_entropy"], rows=8)
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


def test_layout_aligns_buffers_without_overlap_or_gap():
    layout = Layout(dense_layers([7, 20, 16, 3]), LOSSES["cross_entropy"], rows=8)
    starts = sorted(
        {(int(r[at]), 8 * int(r[at + "_row"])) for r in layout.table for at in ("x", "dz")}
    )
    ends = [start + size for start, size in starts]
    assert ends == [start for start, _ in starts[1:]] + [layout.scratch_size]
    assert all(start % NR == 0 for start, _ in starts)


def test_buffers_start_on_cache_lines():
    _, buffers = buffers_of([5, 4, 3], 8)
    for name in ("parameters", "gradients", "transposed", "scratch", "blocks", "losses"):
        assert getattr(buffers, name).ctypes.data % 64 == 0


def one_layer(outputs, loss, rows, norm):
    """Return the buffers of a network of one layer, filled with NaN, and views of z and targets."""
    for unit in UNITS:
        unit.compile()
    layout, buffers = buffers_of([4, outputs], rows, loss)
    buffers.scratch[:] = buffers.losses[:] = np.nan
    buffers.job.tasks, buffers.job.denominator = 1, norm
    row = layout.table[-1]

    def view(start):
        return buffers.scratch[start:][: rows * row["z_row"]].reshape(rows, -1)

    z = view(row["z"])
    z[:, : row["panels"] * NR] = 0  # as a product over panels writes it
    return buffers, z, view(row["targets"])


@pytest.mark.parametrize("classes", [1, 2, 10, 16, 17])
def test_cross_entropy_and_its_gradient(rng, classes):
    rows, norm = 9, 20
    buffers, z, _ = one_layer(classes, "cross_entropy", rows, norm)
    lanes = -(-classes // NR) * NR
    logits = 30 * rng.standard_normal((rows, classes), dtype=np.float32)
    logits[0], logits[1] = 3e38, np.linspace(-3e38, 0, classes)  # the naive formula overflows
    z[:, :classes] = logits
    buffers.row_labels[:] = labels = rng.integers(0, classes, rows)
    exact = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_total = np.log(np.exp(exact).sum(axis=1))
    loss = log_total - exact[np.arange(rows), labels]
    call_loss(address(buffers.job), 2, rows - 2)
    # log Σ: a few roundings of numbers up to |exact|
    assert (abs(buffers.losses - loss)[2:] <= 8 * 2**-24 * (1 + abs(exact).max(axis=1))[2:]).all()
    assert (buffers.hits == (logits.argmax(axis=1) == labels))[2:].all()
    probs = np.exp(exact - log_total[:, None])
    dz = (probs - np.eye(classes)[labels]) / norm
    spread = 1 + abs(exact[2:]).max(axis=1, keepdims=True)  # the error of the argument of exp
    assert (abs(z[2:, :classes] - dz[2:]) <= 4 * 2**-24 * spread / norm).all()
    assert (z[2:, classes:lanes] == 0).all()
    assert (z[:2, :classes] == logits[:2]).all()  # rows outside the block do not change
    assert np.isfinite(buffers.losses[2:]).all()


LINKS = {"logistic": lambda z: 1 / (1 + np.exp(-z)), "exp": np.exp, "identity": lambda z: z}
TERMS = {  # loss of one output in float64
    "logistic": lambda z, y: np.logaddexp(0, z) - y * z,
    "squared_error": lambda z, y: (z - y) ** 2 / 2,
    "poisson": lambda z, y: np.exp(z) - y * z + y * np.log(np.where(y > 0, y, 1)) - y,
    "absolute_error": lambda z, y: abs(z - y),
    "huber": lambda z, y: np.where(abs(z - y) < 1, (z - y) ** 2 / 2, abs(z - y) - 0.5),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("outputs", [1, 3, 17])
@pytest.mark.parametrize("loss", TERMS)
def test_elementwise_losses_and_their_gradients(rng, loss, outputs, weighted):
    rows, norm = 40, 7
    buffers, z, targets = one_layer(outputs, loss, rows, norm)
    lanes = -(-outputs // NR) * NR
    values = (4 * rng.standard_normal((rows, outputs))).astype(np.float32)
    y = (values + rng.standard_normal((rows, outputs))).astype(np.float32)
    if loss in ("logistic", "poisson"):
        y = (y > 0).astype(np.float32)
    y[5] = values[5] = 0.5  # a residual of 0 if p = z
    z[:, :outputs], targets[:, :outputs] = values, y
    weights = rng.random(rows).astype(np.float32) if weighted else np.ones(rows, np.float32)
    buffers.row_weights[:] = weights if weighted else np.nan
    buffers.job.weights = address(weights) if weighted else 0
    call_loss(address(buffers.job), 0, rows)
    exact, wanted = values.astype(np.float64), y.astype(np.float64)
    residual = LINKS[LOSSES[loss].link](exact) - wanted
    slope = {"absolute_error": np.sign, "huber": lambda r: np.clip(r, -1, 1)}.get(loss, lambda r: r)
    total = TERMS[loss](exact, wanted).sum(axis=1) * weights
    # A few roundings in the term of each output, of numbers up to e^|z|.
    size = 1 + np.exp(abs(exact)) if loss == "poisson" else 1 + exact**2 + wanted**2
    assert (abs(buffers.losses - total) <= 8 * 2**-24 * size.sum(axis=1)).all()
    dz = slope(residual) * weights[:, None] / norm
    assert (abs(z[:, :outputs] - dz) <= 8 * 2**-24 * size / norm).all()
    assert (z[:, outputs:lanes] == 0).all()
    right = ((values > 0) == (y > 0.5)).all(axis=1) if loss == "logistic" else np.zeros(rows)
    assert (buffers.hits == right).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_predictions_apply_the_link(rng, loss):
    buffers, z, _ = one_layer(5, loss, 6, 1)
    values = rng.standard_normal((6, 5), dtype=np.float32)
    z[:, :5] = values
    call_predict(address(buffers.job), 1, 5)
    exact = values.astype(np.float64)
    if loss == "cross_entropy":
        wanted = np.exp(exact) / np.exp(exact).sum(axis=1, keepdims=True)
    else:
        wanted = LINKS[LOSSES[loss].link](exact)
    np.testing.assert_allclose(z[1:, :5], wanted[1:], rtol=1e-6)
    assert (z[0, :5] == values[0]).all() and (z[1:, 5:NR] == 0).all()


@jitted
@pytest.mark.process
def test_kernels_contain_no_float64():
    """A literal like 0.5 is a float64, with which a loop is vectorised at half the width."""
    from fastnn.kernels.regions import rows_region
    from fastnn.kernels.weights import weights_region

    arguments = types.int64, types.int64
    kernels = [(region, types.void(*arguments)) for region in (rows_region, weights_region)]
    kernels += [(unit.function, unit.signature) for unit in UNITS]
    for function, signature in kernels:  # compiled again: cached functions have no LLVM text
        compiled = numba.cfunc(signature, error_model="numpy")(function)
        assert "double" not in compiled.inspect_llvm(), function.__name__
