"""Losses over a row block, in place: `z` becomes the predictions `p`, and `p` becomes `dz`.

See `reference.losses`; `fastnn.model.losses` has the formulas. `dz` is the gradient of the batch's
mean loss: the derivative of the row's loss, times its sample weight, divided by the denominator of
the mean. Targets are labels (rows,) int32, or values (rows, O) in the scratch vector.
"""

import math

import numpy as np
from numba import types

from fastnn.kernels.jit.compiling import jit, unit
from fastnn.kernels.jit.simd import NR, ONE, ZERO, address_in, record_at
from fastnn.kernels.pointwise import activations
from fastnn.kernels.pointwise.elementary import HALF, HIGHEST, exp
from fastnn.kernels.workspace import JOB, buffers_of, layer_of
from fastnn.model.losses import LOSSES

CROSS_ENTROPY, LOGISTIC, POISSON, ABSOLUTE_ERROR, HUBER = map(
    list(LOSSES).index, ("cross_entropy", "logistic", "poisson", "absolute_error", "huber")
)


@jit
def softmax(z, at, width):
    """``p = exp(z - max z) / Σ exp(z - max z)`` in place, for z (width,) from `at`.

    The lanes after them, up to a multiple of NR, become 0. Return max z, the sum, and the index of
    the first maximum.
    """
    lanes = (width + NR - 1) // NR * NR
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
def softmax_cross_entropy_forward(losses, hits, scratch, layer, labels, first, rows):
    """``p = softmax(z)`` in place, ``losses = log Σ exp(z - max z) - (z[label] - max z)``.

    Writes hits (rows,): whether the label is the index of the first maximum of p.
    """
    for i in range(first, first + rows):
        at = layer.z + i * layer.z_row
        label_z = scratch[at + labels[i]]
        peak, total, largest = softmax(scratch, at, layer.outputs)
        losses[i] = np.float32(math.log(total)) - (label_z - peak)
        hits[i] = largest == labels[i]


@jit
def softmax_cross_entropy_backward(scratch, layer, labels, first, rows):
    """``dz = p - onehot(label)`` in place."""
    for i in range(first, first + rows):
        scratch[layer.dz + i * layer.dz_row + labels[i]] -= ONE


@jit
def poisson_mean(z):
    """Return eᶻ without the system's `exp`, which differs in the last bit between systems."""
    if z > HIGHEST:  # (e^(z / 2))², which becomes infinity
        root = exp(HALF * z)
        return root * root
    return exp(z)


@jit
def link(scratch, layer, loss, first, rows):
    """``p = link(z)`` in place for all links but softmax; the lanes after the outputs become 0."""
    at = address_in(scratch, layer.z + first * layer.z_row)
    if loss == LOGISTIC:
        activations.activate(at, layer.z_row, rows, layer.outputs, activations.LOGISTIC)
    for i in range(first, first + rows):
        at = layer.z + i * layer.z_row
        if loss == POISSON:
            for j in range(at, at + layer.outputs):
                scratch[j] = poisson_mean(scratch[j])
        for j in range(at + layer.outputs, at + layer.panels * NR):
            scratch[j] = ZERO


@jit
def elementwise_loss(z, y, loss):
    """Return the loss of one output for its target."""
    if loss == LOGISTIC:  # log(1 + eᶻ) - y z without overflow
        size = z if z > ZERO else -z
        above = ZERO if z < ZERO else z
        return above - y * z + np.float32(math.log1p(math.exp(-size)))
    if loss == POISSON:
        if y == ZERO:
            return np.float32(math.exp(z))
        d = z - np.float32(math.log(y))  # y (eᵈ - 1 - d) cancels less near p = y
        return y * (np.float32(math.expm1(d)) - d)
    r = z - y
    size = -r if r < ZERO else r
    if loss == ABSOLUTE_ERROR:
        return size
    if loss == HUBER and not size < ONE:
        return size - HALF
    return r * r * HALF


@jit
def residual(p, y, loss):
    """Return ``p - y``; its sign for the absolute error; clipped to ±1 for the Huber loss."""
    r = p - y
    if loss != ABSOLUTE_ERROR and loss != HUBER:
        return r
    if loss == ABSOLUTE_ERROR:
        return ONE if r > ZERO else -ONE if r < ZERO else r
    clipped = ONE if r > ONE else r
    return -ONE if clipped < -ONE else clipped


@unit(*(types.int64,) * 3)
def loss_forward(job_address, first, rows):
    """Write losses (rows,) and hits (rows,), and turn z (rows, O) into p in place.

    The rows are those of the chunk from `first` on.
    """
    job = record_at(job_address, 0, JOB)
    buffers = buffers_of(job)
    layer = layer_of(job, job.n_layers - 1)
    losses, hits, scratch = buffers.losses, buffers.hits, buffers.scratch
    if job.loss == CROSS_ENTROPY:
        softmax_cross_entropy_forward(losses, hits, scratch, layer, buffers.row_labels, first, rows)
    else:
        for i in range(first, first + rows):
            at, y = layer.z + i * layer.z_row, layer.targets + i * layer.z_row
            correct = job.loss == LOGISTIC
            total = ZERO
            for j in range(layer.outputs):
                z, target = scratch[at + j], scratch[y + j]
                correct = correct and (z > ZERO) == (target > HALF)
                total += elementwise_loss(z, target, job.loss)
            losses[i] = total
            hits[i] = correct
        link(scratch, layer, job.loss, first, rows)
    if job.weights != 0:
        for i in range(first, first + rows):
            weight = buffers.row_weights[i]  # 0 also for a loss that is not finite
            losses[i] = ZERO if weight == ZERO else losses[i] * weight


@unit(*(types.int64,) * 3)
def loss_backward(job_address, first, rows):
    """``dz = residual · weight / denominator`` in place: p (rows, O) becomes dz."""
    job = record_at(job_address, 0, JOB)
    buffers = buffers_of(job)
    scratch, layer, loss = buffers.scratch, layer_of(job, job.n_layers - 1), job.loss
    denominator, lanes = job.denominator, layer.panels * NR  # read once, not after each store
    if loss == CROSS_ENTROPY:
        softmax_cross_entropy_backward(scratch, layer, buffers.row_labels, first, rows)
    for i in range(first, first + rows):
        at, y = layer.dz + i * layer.dz_row, layer.targets + i * layer.z_row
        if loss != CROSS_ENTROPY:
            for j in range(layer.outputs):
                scratch[at + j] = residual(scratch[at + j], scratch[y + j], loss)
        if job.weights != 0:
            weight = buffers.row_weights[i]
            for j in range(at, at + layer.outputs):
                scratch[j] = ZERO if weight == ZERO else scratch[j] * weight
        for j in range(at, at + lanes):
            scratch[j] = scratch[j] / denominator


@unit(*(types.int64,) * 3)
def predict(job_address, first, rows):
    """``p = link(z)`` in place; the lanes after the outputs become 0."""
    job = record_at(job_address, 0, JOB)
    scratch, layer = buffers_of(job).scratch, layer_of(job, job.n_layers - 1)
    if job.loss == CROSS_ENTROPY:
        for i in range(first, first + rows):
            softmax(scratch, layer.z + i * layer.z_row, layer.outputs)
    else:
        link(scratch, layer, job.loss, first, rows)
