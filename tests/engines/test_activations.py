"""Activations in both rooms: their values, their slopes, NaN, and the lanes beside them."""

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

ROOMS = ["reference", "kernels"]
ROWS, STRIDE = 5, 64
_activate, _follow_slope = (unit.call for unit in kernels.UNITS)


@numba.njit
def call_activate(at, stride, rows, width, code):
    _activate(at, stride, rows, width, code)


@numba.njit
def call_follow_slope(dz, dz_stride, a, a_stride, rows, width, code):
    _follow_slope(dz, dz_stride, a, a_stride, rows, width, code)


def forward(room, name, z):
    """Return `a`, and what `backward` wants of it."""
    rows, width = z.shape
    if room == "reference":
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


def backward(room, name, da, z, a):
    rows, width = z.shape
    source = z if name == "gelu" else a
    if room == "reference":
        dz = da.copy()
        if name != "identity":
            getattr(reference, f"{name}_backward")(dz, da, np.ascontiguousarray(source))
        return dz
    padded, beside = np.zeros((rows, STRIDE), np.float32), np.full((rows, STRIDE), np.nan, "f4")
    padded[:, :width], beside[:, :width] = da, source
    code = ACTIVATIONS.index(name)
    call_follow_slope(address(padded), STRIDE, address(beside), STRIDE, rows, width, code)
    assert (padded[:, width:] == 0).all()  # whatever lies beside `a`
    return padded[:, :width]


every_activation = pytest.mark.parametrize("name", ACTIVATIONS)
every_room = pytest.mark.parametrize("room", ROOMS)


@every_room
@every_activation
@pytest.mark.parametrize("width", [1, 15, 16, 40])
def test_values_and_slopes(rng, room, name, width):
    z = rng.uniform(-6, 6, (ROWS, width)).astype(np.float32)
    da = rng.standard_normal((ROWS, width), dtype=np.float32)
    formula, exact = FORMULAS[name], z.astype(np.float64)
    a = forward(room, name, z)
    # Some roundings of numbers up to 1 + |z|: GELU takes the small difference 1 + tanh u for z < 0.
    np.testing.assert_allclose(a, formula(exact), rtol=1e-6, atol=2e-6)
    step = 1e-6
    slope = (formula(exact + step) - formula(exact - step)) / (2 * step)
    np.testing.assert_allclose(backward(room, name, da, z, a), da * slope, rtol=1e-5, atol=1e-5)


@every_room
@every_activation
def test_nan_stays_and_infinities_do_what_the_limit_does(room, name):
    z = np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32)
    with np.errstate(invalid="ignore"):
        a = forward(room, name, z)
    ends = {"logistic": (1, 0), "tanh": (1, -1), "relu": (np.inf, 0)}
    high, low = ends.get(name, (np.inf, -np.inf))
    assert np.isnan(a[0, 0]) and a[0, 1] == high
    assert a[0, 2] == pytest.approx(low, abs=1e-38) or name == "gelu"  # -∞ · 0 there


@every_room
def test_relu_and_its_mask_are_exact(rng, room):
    z = rng.integers(-3, 4, (ROWS, 33)).astype(np.float32)
    z[0, 0], z[-1, -1] = np.nan, -0.0
    da = rng.standard_normal(z.shape, dtype=np.float32)
    a = forward(room, "relu", z)
    assert np.isnan(a[0, 0])
    assert (a.ravel()[1:] == np.maximum(z, 0).ravel()[1:]).all()
    assert (backward(room, "relu", da, z, a) == np.where(z > 0, da, 0)).all()


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_kinked_activations_have_the_same_bits_in_both_rooms(rng, name):
    z, da = rng.standard_normal((2, ROWS, 40), dtype=np.float32)
    (a, dz), (other_a, other_dz) = (
        (forward(room, name, z), backward(room, name, da, z, forward(room, name, z)))
        for room in ROOMS
    )
    assert (a == other_a).all() and (dz == other_dz).all()


def test_the_kernels_row_is_not_shorter_than_a_vector():
    assert STRIDE % NR == 0
