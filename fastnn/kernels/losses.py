"""Softmax with categorical cross-entropy over a block of rows. Twin of `reference.losses`."""

import math

import numpy as np

from fastnn.kernels._jit import jit
from fastnn.kernels._simd import NR, ONE, ZERO, fma

# exp(x) = 2ⁿ · e^r with n = round(x / ln 2) and |r| ≤ ln 2 / 2; ln 2 in two parts, so that
# n · ln 2 is exact. Below LOWEST the result would be denormal, and is 0; above HIGHEST n would
# leave the exponent's range, and the result stays at e^HIGHEST (softmax never comes there).
LOWEST, HIGHEST = np.float32(-87.3), np.float32(88.3)
LOG2_E = np.float32(1.4426950408889634)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
HALF = np.float32(0.5)
# e^r ≈ 1 + r + r² · (C2 + r · (C3 + …)), the minimax polynomial of Cephes' expf (Moshier 1989).
C7, C6, C5 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
C4, C3, C2 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
EXPONENT_BIAS, MANTISSA_BITS = np.int32(127), np.int32(23)


@jit
def exp(x):
    """Return e^x in float32, from LOWEST to HIGHEST within 2 units in the last place."""
    clamped = x if x > LOWEST else LOWEST  # a NaN too, for it has no exponent
    clamped = clamped if clamped < HIGHEST else HIGHEST
    n = np.floor(fma(clamped, LOG2_E, HALF))
    r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, clamped))
    p = fma(fma(fma(fma(fma(C7, r, C6), r, C5), r, C4), r, C3), r, C2)
    mantissa = fma(p, r * r, r + ONE)
    power = np.int32((np.int32(n) + EXPONENT_BIAS) << MANTISSA_BITS).view(np.float32)
    result = mantissa * power
    if x < LOWEST:
        result = ZERO
    if x != x:
        result = x
    return result


@jit
def softmax(z, at, width, lanes):
    """``p = exp(z - max z) / Σ``, in place; return max z, the sum, and the first largest place.

    z (lanes,) from `at`, of which `width` count; the lanes behind become 0.
    """
    largest = 0
    for j in range(1, width):
        if z[at + j] > z[at + largest]:
            largest = j
    peak = z[at + largest]
    for j in range(lanes):
        z[at + j] = exp(z[at + j] - peak)
    total = ZERO
    for j in range(width):
        total += z[at + j]
    for j in range(lanes):
        p = z[at + j] / total
        z[at + j] = p if j < width else ZERO
    return peak, total, largest


@jit
def softmax_cross_entropy_forward(losses, hits, workspace, layer, labels, first, rows):
    """Write each row's loss and whether it is predicted right; turn its logits into p.

    ``losses[i] = log Σ exp(z - max z) - (z[label] - max z)``; losses, hits and labels are the
    chunk's (rows,): float32 and uint8, written; int32, read.
    """
    for i in range(first, first + rows):
        at = layer.z + i * layer.z_row
        label_logit = workspace[at + labels[i]]
        peak, total, largest = softmax(workspace, at, layer.outputs, layer.panels * NR)
        losses[i] = np.float32(math.log(total)) - (label_logit - peak)
        hits[i] = largest == labels[i]


@jit
def softmax_cross_entropy_backward(workspace, layer, labels, first, rows, batch_rows):
    """``dz = (p - onehot) / batch_rows`` in place, where the forward pass left p."""
    for i in range(first, first + rows):
        at = layer.dz + i * layer.dz_row
        workspace[at + labels[i]] -= ONE
        for j in range(at, at + layer.panels * NR):
            workspace[j] = workspace[j] / batch_rows
