"""Activations of both engines: values, derivatives, NaN, and the lanes past the width."""

import numba
import numpy as np
import pytest
from formulas import ACTIVATIONS as FORMULAS

from fastnn.kernels.engine import UNITS
from fastnn.kernels.jit.simd import NR
from fastnn.kernels.pointwise import activations as kernels
from fastnn.kernels.workspace import address
from fastnn.model.layers import ACTIVATIONS
from fastnn.reference import activations as reference

ENGINES = ["reference", "kernels"]
ROWS, STRIDE = 5, 64
_activate, _backward = (unit.call for unit in kernels.UNITS)


@numba.njit
def call_activate(at, stride, rows, width, code):
    _activate(at, stride, rows, width, code)


@numba.njit
def call_backward(dz, dz_stride, a, a_stride, rows, width, code):
    _backward(dz, dz_stride, a, a_stride, rows, width, code)


def forward(engine, name, z):
    """Return ``a``."""
    rows, width = z.shape
    if engine == "reference":
        a = z.copy()
        if name != "identity":
            getattr(reference, f"{name}_forward")(a, z)
        return a
    for unit in UNITS:
        unit.compile()
    padded = np.full((rows, STRIDE), 7, np.float32)
    padded[:, :width] = z
    call_activate(address(padded), STRIDE, rows, width, ACTIVATIONS.index(name))
    assert (padded[:, width:] == 7).all()
    return padded[:, :width]


def backward(engine, name, da, z, a):
    rows, width = z.shape
    source = z if name == "gelu" else a
    if engine == "reference":
        dz = da.copy()
        if name != "identity":
            getattr(reference, f"{name}_backward")(dz, da, np.ascontiguousarray(source))
        return dz
    padded, padded_source = (
        np.zeros((rows, STRIDE), np.float32),
        np.full((rows, STRIDE), np.nan, "f4"),
    )
    padded[:, :width], padded_source[:, :width] = da, source
    code = ACTIVATIONS.index(name)
    call_backward(address(padded), STRIDE, address(padded_source), STRIDE, rows, width, code)
    assert (padded[:, width:] == 0).all()  # although the lanes of the source are NaN
    return padded[:, :width]


every_activation = pytest.mark.parametrize("name", ACTIVATIONS)
both_engines = pytest.mark.parametrize("engine", ENGINES)


@both_engines
@every_activation
@pytest.mark.parametrize("width", [1, 15, 16, 40])
def test_values_and_derivatives(rng, engine, name, width):
    z = rng.uniform(-6, 6, (ROWS, width)).astype(np.float32)
    da = rng.standard_normal((ROWS, width), dtype=np.float32)
    formula, exact = FORMULAS[name], z.astype(np.float64)
    a = forward(engine, name, z)
    # A few roundings of numbers up to 1 + |z|; for z < 0, 1 + tanh u of GELU cancels.
    np.testing.assert_allclose(a, formula(exact), rtol=1e-6, atol=2e-6)
    step = 1e-6
    slope = (formula(exact + step) - formula(exact - step)) / (2 * step)
    np.testing.assert_allclose(backward(engine, name, da, z, a), da * slope, rtol=1e-5, atol=1e-5)


@both_engines
@every_activation
def test_nan_and_infinity(engine, name):
    z = np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32)
    with np.errstate(invalid="ignore"):
        a = forward(engine, name, z)
    ends = {"logistic": (1, 0), "tanh": (1, -1), "relu": (np.inf, 0)}
    high, low = ends.get(name, (np.inf, -np.inf))
    assert np.isnan(a[0, 0]) and a[0, 1] == high
    assert a[0, 2] == pytest.approx(low, abs=1e-38) or name == "gelu"  # -∞ · 0


@both_engines
def test_relu_is_exact(rng, engine):
    z = rng.integers(-3, 4, (ROWS, 33)).astype(np.float32)
    z[0, 0], z[-1, -1] = np.nan, -0.0
    da = rng.standard_normal(z.shape, dtype=np.float32)
    a = forward(engine, "relu", z)
    assert np.isnan(a[0, 0])
    assert (a.ravel()[1:] == np.maximum(z, 0).ravel()[1:]).all()
    assert (backward(engine, "relu", da, z, a) == np.where(z > 0, da, 0)).all()


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_piecewise_linear_activations_have_the_same_bits_in_both_engines(rng, name):
    z, da = rng.standard_normal((2, ROWS, 40), dtype=np.float32)
    (a, dz), (other_a, other_dz) = (
        (forward(engine, name, z), backward(engine, name, da, z, forward(engine, name, z)))
        for engine in ENGINES
    )
    assert (a == other_a).all() and (dz == other_dz).all()


def test_stride_is_a_multiple_of_a_vector():
    assert STRIDE % NR == 0
