"""exp, tanh, the logistic function and a check for finite numbers, in float32.

The compiler vectorises them. Each function states its largest error, which is tested.
"""

import numpy as np

from fastnn.kernels.jit.compiling import jit
from fastnn.kernels.jit.simd import ONE, ZERO, array_at, fma

# exp(x) = 2ⁿ · e^r with n = round(x / ln 2) and |r| ≤ ln 2 / 2. ln 2 is LN2_HIGH + LN2_LOW, and
# LN2_HIGH has few enough digits that n · LN2_HIGH is exact. Below LOWEST the result would be
# denormal, and is 0; above HIGHEST the exponent would overflow, and the result is e^HIGHEST.
LOWEST, HIGHEST = np.float32(-87.3), np.float32(88.3)
LOG2_E = np.float32(1.4426950408889634)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
HALF, TWO = np.float32(0.5), np.float32(2)
# e^r ≈ 1 + r + r² · (C2 + r · (C3 + …)), the minimax polynomial of Cephes' expf (Moshier 1989).
C7, C6, C5 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
C4, C3, C2 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
EXPONENT_BIAS, MANTISSA_BITS = np.int32(127), np.int32(23)

# tanh x ≈ x + x³ · (T3 + x² · (T5 + …)) below TANH_SMALL, where 1 - 2 / (e²ˣ + 1) loses digits; the
# polynomial of Cephes' tanhf.
TANH_SMALL = np.float32(0.625)
T11, T9, T7 = (
    np.float32(-5.70498872745e-3),
    np.float32(2.06390887954e-2),
    np.float32(-5.37397155531e-2),
)
T5, T3 = np.float32(1.33314422036e-1), np.float32(-3.33332819422e-1)

# The bits of a float32 without its sign; they are at least INFINITY for infinity and NaN.
MAGNITUDE, INFINITY = np.int32(0x7FFFFFFF), np.int32(0x7F800000)


@jit
def exp(x):
    """Return eˣ; from LOWEST to HIGHEST within 2 units in the last place."""
    clamped = x if x > LOWEST else LOWEST  # NaN too: it has no exponent
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
def logistic(x):
    """Return 1 / (1 + e⁻ˣ), within 3 units in the last place.

    Below -HIGHEST it is 0 where denormals are flushed, as in a region, and about 4e-39 elsewhere.
    """
    return ONE / (ONE + exp(-x))


@jit
def tanh(x):
    """Return the hyperbolic tangent, within 3 units in the last place."""
    size = x if x > ZERO else -x
    large = ONE - TWO / (exp(TWO * size) + ONE)
    large = large if x > ZERO else -large
    square = x * x
    p = fma(fma(fma(fma(T11, square, T9), square, T7), square, T5), square, T3)
    small = fma(p * square, x, x)
    return small if size < TANH_SMALL else large


@jit
def all_finite(address, count):
    """Return whether `count` float32 at an address are all finite: no exponent is all ones."""
    bits = array_at(address, count, np.int32)
    largest = np.int32(0)
    for k in range(count):
        magnitude = bits[k] & MAGNITUDE
        largest = magnitude if magnitude > largest else largest
    return largest < INFINITY
