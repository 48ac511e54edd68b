"""Update rules for consecutive parameters, whose gradient is in the cache.

See `reference.updates`; `fastnn.Optimizer` has the equations. The parameters w (count,) start at
``w[at]``, their gradient dw (count,) at ``dw[0]`` or ``dw[dw_at]``. The state has the layout of the
parameters, and also starts at index `at`. `rate` is the step size of `fastnn.epoch.Epoch`.
"""

import numpy as np
from numba import types

from fastnn.kernels.jit.compiling import jit, unit
from fastnn.kernels.jit.simd import NR, array_at, fma, record_at
from fastnn.kernels.workspace import JOB, MOMENTUM, SGD, STATE_SLOTS


@jit
def accumulate(gradients, at, block, block_at, count, first):
    """``gradients += block``, or ``gradients = block`` for the first chunk of a batch.

    `block` is the gradient of a weight block, (count,) from ``block[block_at]``.
    """
    for i in range(count):
        dw = block[block_at + i]
        gradients[at + i] = dw if first else gradients[at + i] + dw


@jit
def add_l2(dw, dw_at, w, at, count, l2):
    """``dw = dw + l2 · w``, the gradient of the penalty."""
    for i in range(count):
        dw[dw_at + i] = fma(l2, w[at + i], dw[dw_at + i])


@jit
def add_squares(squares, squares_at, w, at, count):
    """``squares[j] += Σ w[j + i · NR]²`` for the NR lanes j, in order of i."""
    i = 0
    while i + 4 * NR <= count:  # four squares for each load and store of a sum
        for j in range(NR):
            w0, w1 = w[at + i + j], w[at + i + NR + j]
            w2, w3 = w[at + i + 2 * NR + j], w[at + i + 3 * NR + j]
            total = fma(w1, w1, fma(w0, w0, squares[squares_at + j]))
            squares[squares_at + j] = fma(w3, w3, fma(w2, w2, total))
        i += 4 * NR
    while i < count:
        for j in range(NR):
            squares[squares_at + j] = fma(w[at + i + j], w[at + i + j], squares[squares_at + j])
        i += NR


@jit
def clip_gradient(dw, dw_at, count, factor):
    """``dw = dw · factor``."""
    for i in range(count):
        dw[dw_at + i] *= factor


@jit
def decay_weights(w, at, count, decay):
    """``w = w - decay · w``."""
    for i in range(count):
        w[at + i] = fma(-decay, w[at + i], w[at + i])


@jit
def sgd_update(w, at, dw, count, rate):
    """``w = w - rate · dw``."""
    for i in range(count):
        w[at + i] = fma(-rate, dw[i], w[at + i])


@jit
def momentum_update(w, u, at, dw, count, rate, momentum, nesterov):
    """``u = momentum · u - rate · dw``, ``w += u``; Nesterov: ``w += momentum · u - rate · dw``."""
    for i in range(count):
        step = -rate * dw[i]
        velocity = fma(momentum, u[at + i], step)
        u[at + i] = velocity
        w[at + i] += fma(momentum, velocity, step) if nesterov else velocity


@jit
def adam_update(w, state, v_at, at, dw, count, rate, beta1, rest1, beta2, rest2, eps):
    """``m = β₁ m + (1 - β₁) dw``, ``v = β₂ v + (1 - β₂) dw²``, ``w = w - rate · m / (√v + eps)``.

    m starts at ``state[at]``, v at ``state[v_at + at]``. `rest1` is 1 - β₁ and `rest2` is 1 - β₂;
    Python computes them in float64, because the difference would lose digits in float32.
    """
    for i in range(count):
        g = dw[i]
        m = fma(beta1, state[at + i], rest1 * g)
        v = fma(beta2, state[v_at + at + i], rest2 * (g * g))
        state[at + i] = m
        state[v_at + at + i] = v
        w[at + i] = fma(-rate, m / (np.sqrt(v) + eps), w[at + i])


@unit(*(types.int64,) * 4)
def update(job_address, at, dw_address, count):
    """Update parameters (count,) from ``parameters[at]`` on by the rule of the job.

    `dw_address` is the address of the gradient (count,).
    """
    job = record_at(job_address, 0, JOB)
    size = job.parameters_size
    w, dw = array_at(job.parameters, size, np.float32), array_at(dw_address, count, np.float32)
    state = array_at(job.state, STATE_SLOTS * size, np.float32)
    if job.rule == SGD:
        sgd_update(w, at, dw, count, job.rate)
    elif job.rule == MOMENTUM:
        momentum_update(w, state, at, dw, count, job.rate, job.momentum, job.nesterov)
    else:
        adam_update(
            w, state, size, at, dw, count,
            job.rate, job.beta1, job.rest1, job.beta2, job.rest2, job.eps,
        )  # fmt: skip


@jit
def apply_rule(buffers, job, at, dw_address, count, weights):
    """Apply weight decay to the first `weights` of `count` parameters, then the rule to all.

    The parameters start at index `at`; `dw_address` is the address of the gradient (count,).
    """
    if job.decay != 0:
        decay_weights(buffers.parameters, at, weights, job.decay)
    update(job.address, at, dw_address, count)
