"""Update rules over a run of parameters, applied while their gradient is in the cache.

Twin of `reference.updates`.
"""

from fastnn.kernels._jit import jit
from fastnn.kernels._simd import fma


@jit
def sgd_update(parameters, at, gradients, gradients_at, count, learning_rate):
    """``w = w - learning_rate · dw``, fused: parameters (count,) from `at` updated."""
    for i in range(count):
        dw = gradients[gradients_at + i]
        parameters[at + i] = fma(-learning_rate, dw, parameters[at + i])


@jit
def accumulate(gradients, at, block, block_at, count, first):
    """Add a chunk's gradient to the batch's, or begin it: gradients (count,) from `at` updated."""
    for i in range(count):
        dw = block[block_at + i]
        gradients[at + i] = dw if first else gradients[at + i] + dw
