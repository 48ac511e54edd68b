"""Update rules over a run of parameters, applied while their gradient is in the cache.

Twin of `reference.updates`.
"""

from fastnn.kernels._jit import jit
from fastnn.kernels._simd import fma


@jit
def sgd_update(parameters, gradients, at, count, learning_rate):
    """``w = w - learning_rate · dw``, fused: parameters (count,) from `at` updated."""
    w = parameters[at : at + count]
    dw = gradients[at : at + count]
    for i in range(count):
        w[i] = fma(-learning_rate, dw[i], w[i])


@jit
def accumulate(totals, gradients, at, count, first):
    """Add a chunk's gradient to the batch's, or begin it: totals (count,) from `at` updated."""
    total = totals[at : at + count]
    dw = gradients[at : at + count]
    for i in range(count):
        total[i] = dw[i] if first else total[i] + dw[i]
