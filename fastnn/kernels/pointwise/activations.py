"""Activations over a row block, in place: `z` becomes `a`, and `da` becomes `dz`.

See `reference.activations`. The derivative is computed from `a`. If that is not possible, a layer
stores its slopes, the derivatives, in the forward pass: for GELU, whose derivative needs z, and for
layers whose outputs dropout changes. (ReLU does not need them: an output that is 0 has slope 0.)
"""

import numpy as np
from numba import types

from fastnn.kernels.jit.compiling import jit, unit
from fastnn.kernels.jit.simd import NR, ONE, ZERO, address_in, array_at
from fastnn.kernels.pointwise.elementary import HALF, logistic, tanh
from fastnn.model.layers import ACTIVATIONS, LEAK

RELU, LEAKY_RELU, LOGISTIC, TANH, GELU = map(
    ACTIVATIONS.index, ("relu", "leaky_relu", "logistic", "tanh", "gelu")
)

SLOPE = np.float32(LEAK)
GELU_SCALE, GELU_CUBIC = np.float32(np.sqrt(2 / np.pi)), np.float32(0.044715)
GELU_CUBIC_3 = np.float32(3 * np.float32(0.044715))
NO_SLOPES = -1


def keeps_slopes(activation: int, drops: bool) -> bool:
    """Return whether a layer stores slopes; `drops` tells whether its outputs have dropout."""
    return activation == GELU or (drops and activation != RELU)


@jit
def relu_forward(a, stride, rows, width):
    """``a = max(z, 0)``, in place: a (rows, width) is z before. NaN stays NaN."""
    for i in range(rows):
        for j in range(i * stride, i * stride + width):
            z = a[j]
            a[j] = ZERO if z < ZERO else z


@jit
def relu_backward(dz, dz_stride, a, a_stride, rows, width):
    """``dz = da`` where a > 0, else 0, in place: dz (rows, width) is da before.

    It computes complete vectors; past the width, dz is 0 and stays 0.
    """
    lanes = (width + NR - 1) // NR * NR
    for i in range(rows):
        for j in range(lanes):
            da = dz[i * dz_stride + j]  # always read: a conditional load becomes a branch
            dz[i * dz_stride + j] = da if a[i * a_stride + j] > ZERO else ZERO


@jit
def leaky_relu_forward(a, stride, rows, width):
    """``a = z`` where z > 0, else ``LEAK · z``."""
    for i in range(rows):
        for j in range(i * stride, i * stride + width):
            z = a[j]
            low = SLOPE * z
            a[j] = z if z > ZERO else low


@jit
def leaky_relu_backward(dz, dz_stride, a, a_stride, rows, width):
    """``dz = da`` where a > 0, else ``LEAK · da``."""
    for i in range(rows):
        for j in range(width):
            da = dz[i * dz_stride + j]
            low = SLOPE * da
            dz[i * dz_stride + j] = da if a[i * a_stride + j] > ZERO else low


@jit
def logistic_forward(a, stride, rows, width):
    """``a = 1 / (1 + e⁻ᶻ)``."""
    for i in range(rows):
        for j in range(i * stride, i * stride + width):
            a[j] = logistic(a[j])


@jit
def logistic_backward(dz, dz_stride, a, a_stride, rows, width):
    """``dz = da · a (1 - a)``."""
    for i in range(rows):
        for j in range(width):
            value = a[i * a_stride + j]
            dz[i * dz_stride + j] *= value * (ONE - value)


@jit
def tanh_forward(a, stride, rows, width):
    """``a = tanh z``."""
    for i in range(rows):
        for j in range(i * stride, i * stride + width):
            a[j] = tanh(a[j])


@jit
def tanh_backward(dz, dz_stride, a, a_stride, rows, width):
    """``dz = da · (1 - a²)``."""
    for i in range(rows):
        for j in range(width):
            value = a[i * a_stride + j]
            dz[i * dz_stride + j] *= ONE - value * value


@jit
def gelu_forward(a, stride, rows, width):
    """``a = z / 2 · (1 + tanh u)``, ``u = GELU_SCALE · (z + GELU_CUBIC · z³)``."""
    for i in range(rows):
        for j in range(i * stride, i * stride + width):
            z = a[j]
            u = GELU_SCALE * (z + GELU_CUBIC * (z * z * z))
            a[j] = HALF * z * (ONE + tanh(u))


@jit
def gelu_backward(dz, dz_stride, z, z_stride, rows, width):
    """``dz = da · (1 + t + z (1 - t²) u') / 2`` with ``t = tanh u``."""
    for i in range(rows):
        for j in range(width):
            value = z[i * z_stride + j]
            square = value * value
            t = tanh(GELU_SCALE * (value + GELU_CUBIC * (square * value)))
            du = GELU_SCALE * (ONE + GELU_CUBIC_3 * square)
            dz[i * dz_stride + j] *= HALF * (ONE + t + value * (ONE - t * t) * du)


@unit(*(types.int64,) * 5)
def activate(a_address, stride, rows, width, activation):
    """``a = activation(z)`` in place, for (rows, width) numbers at the address `a_address`.

    `activation` is an index in ACTIVATIONS; one without a branch here acts as the identity.
    """
    a = array_at(a_address, rows * stride, np.float32)
    if activation == RELU:
        relu_forward(a, stride, rows, width)
    elif activation == LEAKY_RELU:
        leaky_relu_forward(a, stride, rows, width)
    elif activation == LOGISTIC:
        logistic_forward(a, stride, rows, width)
    elif activation == TANH:
        tanh_forward(a, stride, rows, width)
    elif activation == GELU:
        gelu_forward(a, stride, rows, width)


@unit(*(types.int64,) * 7)
def activate_backward(dz_address, dz_stride, a_address, a_stride, rows, width, activation):
    """``dz = da · slope`` in place, for (rows, width) numbers at the address `dz_address`.

    The slope is computed from a at the address `a_address`, for GELU from z. An activation without
    a branch here acts as the identity.
    """
    dz = array_at(dz_address, rows * dz_stride, np.float32)
    a = array_at(a_address, rows * a_stride, np.float32)
    if activation == RELU:
        relu_backward(dz, dz_stride, a, a_stride, rows, width)
    elif activation == LEAKY_RELU:
        leaky_relu_backward(dz, dz_stride, a, a_stride, rows, width)
    elif activation == LOGISTIC:
        logistic_backward(dz, dz_stride, a, a_stride, rows, width)
    elif activation == TANH:
        tanh_backward(dz, dz_stride, a, a_stride, rows, width)
    elif activation == GELU:
        gelu_backward(dz, dz_stride, a, a_stride, rows, width)


@jit
def activation_forward(scratch, layer, first, rows, training):
    """``a = activation(z)`` in place, followed by a column of ones; in training also the slopes.

    a (rows, O) and slopes (rows, O) are the layer's, from row `first` on.
    """
    stride, width = layer.z_row, layer.outputs
    a_address = address_in(scratch, layer.z + first * stride)
    keeps = training and layer.slopes != NO_SLOPES
    slopes = address_in(scratch, layer.slopes + first * stride)
    if keeps:  # with da = 1, dz is the slope
        start = layer.slopes + first * stride
        for i in range(rows):
            for j in range(start + i * stride, start + i * stride + width):
                scratch[j] = ONE
    if keeps and layer.activation == GELU:
        activate_backward(slopes, stride, a_address, stride, rows, width, layer.activation)
    activate(a_address, stride, rows, width, layer.activation)
    if keeps and layer.activation != GELU:
        activate_backward(slopes, stride, a_address, stride, rows, width, layer.activation)
    ones = layer.z + first * stride + width  # the input for the next layer's bias
    for i in range(rows):
        scratch[ones + i * stride] = ONE


@jit
def activation_backward(scratch, layer, first, rows, a_at, a_stride):
    """``dz = da · slope`` in place: dz (rows, O) of a layer, from row `first` on.

    a (rows, O) from ``scratch[a_at]`` is the layer's output after dropout.
    """
    dz, stride = layer.dz + first * layer.dz_row, layer.dz_row
    if layer.slopes == NO_SLOPES:
        a = address_in(scratch, a_at)
        da = address_in(scratch, dz)
        activate_backward(da, stride, a, a_stride, rows, layer.outputs, layer.activation)
        return
    width, slopes, slopes_row = layer.outputs, layer.slopes, layer.z_row
    slopes += first * slopes_row
    for i in range(rows):
        for j in range(width):
            scratch[dz + i * stride + j] *= scratch[slopes + i * slopes_row + j]
