"""Losses over a block of rows. Twin of `reference.losses`; `fastnn.model.losses` has the formulas.

A block's `z` become predictions `p` in place, and these the gradient `dz` of the batch's loss: it
is the residual, or what the loss makes of it, times the row's weight, divided by the batch's norm.
Targets are the chunk's: labels (rows,) int32, or values (rows, O) in the workspace.
"""

import math

import numpy as np
from numba import types

from fastnn.kernels.jit.compiling import Unit, jit
from fastnn.kernels.jit.simd import NR, ONE, ZERO, address_in, record_at
from fastnn.kernels.pointwise import activations
from fastnn.kernels.pointwise.elementary import HALF, exp
from fastnn.kernels.workspace import JOB, layer_of, views
from fastnn.model.losses import LOSSES

CROSS_ENTROPY, LOGISTIC, POISSON, ABSOLUTE_ERROR, HUBER = map(
    list(LOSSES).index, ("cross_entropy", "logistic", "poisson", "absolute_error", "huber")
)
_activate = activations.UNITS[0].call


@jit
def softmax(z, at, width):
    """``p = exp(z - max z) / Σ``, in place; return max z, the sum, and the first largest place.

    z (width,) from `at`; the lanes behind, up to a multiple of NR, become 0.
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
def softmax_cross_entropy_forward(losses, hits, workspace, layer, labels, first, rows):
    """Turn z into p, and write ``losses[i] = log Σ exp(z - max z) - (z[label] - max z)``."""
    for i in range(first, first + rows):
        at = layer.z + i * layer.z_row
        label_z = workspace[at + labels[i]]
        peak, total, largest = softmax(workspace, at, layer.outputs)
        losses[i] = np.float32(math.log(total)) - (label_z - peak)
        hits[i] = largest == labels[i]


@jit
def softmax_cross_entropy_backward(workspace, layer, labels, first, rows):
    """``dz = p - onehot`` in place."""
    for i in range(first, first + rows):
        workspace[layer.dz + i * layer.dz_row + labels[i]] -= ONE


@jit
def link(workspace, layer, loss, first, rows):
    """``p = link(z)`` in place, output by output; the lanes behind become 0."""
    at = address_in(workspace, layer.z + first * layer.z_row)
    if loss == LOGISTIC:
        _activate(at, layer.z_row, rows, layer.outputs, activations.LOGISTIC)
    for i in range(first, first + rows):
        at = layer.z + i * layer.z_row
        if loss == POISSON:
            for j in range(at, at + layer.outputs):
                workspace[j] = np.float32(math.exp(workspace[j]))
        for j in range(at + layer.outputs, at + layer.panels * NR):
            workspace[j] = ZERO


@jit
def elementwise_loss(z, y, loss):
    """Return the loss of an output, for its target."""
    if loss == LOGISTIC:  # log(1 + eᶻ) - y z, without the overflow of eᶻ
        size = z if z > ZERO else -z
        above = ZERO if z < ZERO else z
        return above - y * z + np.float32(math.log1p(math.exp(-size)))
    if loss == POISSON:
        if y == ZERO:
            return np.float32(math.exp(z))
        apart = z - np.float32(math.log(y))  # the formula's terms, large, would lose its digits
        return y * (np.float32(math.expm1(apart)) - apart)
    r = z - y
    size = -r if r < ZERO else r
    if loss == ABSOLUTE_ERROR:
        return size
    if loss == HUBER and not size < ONE:
        return size - HALF
    return r * r * HALF


@jit
def residual(p, y, loss):
    """Return ``p - y``, or of that the sign, or what is left when it is cut off at ±1."""
    r = p - y
    if loss != ABSOLUTE_ERROR and loss != HUBER:
        return r
    if loss == ABSOLUTE_ERROR:
        return ONE if r > ZERO else -ONE if r < ZERO else r
    cut = ONE if r > ONE else r
    return -ONE if cut < -ONE else cut


def loss_forward(job_at, first, rows):
    """Write each row's loss and whether it is predicted right, and turn z into p.

    Rows count from `first` in the chunk of the job at an address.
    """
    job = record_at(job_at, 0, JOB)
    buffers = views(job)
    layer = layer_of(job, job.n_layers - 1)
    losses, hits, workspace = buffers.losses, buffers.hits, buffers.workspace
    if job.loss == CROSS_ENTROPY:
        softmax_cross_entropy_forward(losses, hits, workspace, layer, buffers.labels, first, rows)
    else:
        for i in range(first, first + rows):
            at, y = layer.z + i * layer.z_row, layer.targets + i * layer.z_row
            right = job.loss == LOGISTIC
            total = ZERO
            for j in range(layer.outputs):
                z, target = workspace[at + j], workspace[y + j]
                right = right and (z > ZERO) == (target > HALF)
                total += elementwise_loss(z, target, job.loss)
            losses[i] = total
            hits[i] = right
        link(workspace, layer, job.loss, first, rows)
    if job.weights != 0:
        for i in range(first, first + rows):
            weight = buffers.weights[i]  # of 0 for a row that does not count, whatever it holds
            losses[i] = ZERO if weight == ZERO else losses[i] * weight


def loss_backward(job_at, first, rows):
    """``dz = residual · weight / norm`` in place, where the forward pass left p."""
    job = record_at(job_at, 0, JOB)
    buffers = views(job)
    workspace, layer, loss = buffers.workspace, layer_of(job, job.n_layers - 1), job.loss
    norm, lanes = job.norm, layer.panels * NR  # read once: a store could change the job
    if loss == CROSS_ENTROPY:
        softmax_cross_entropy_backward(workspace, layer, buffers.labels, first, rows)
    for i in range(first, first + rows):
        at, y = layer.dz + i * layer.dz_row, layer.targets + i * layer.z_row
        if loss != CROSS_ENTROPY:
            for j in range(layer.outputs):
                workspace[at + j] = residual(workspace[at + j], workspace[y + j], loss)
        if job.weights != 0:
            weight = buffers.weights[i]
            for j in range(at, at + layer.outputs):
                workspace[j] = ZERO if weight == ZERO else workspace[j] * weight
        for j in range(at, at + lanes):
            workspace[j] = workspace[j] / norm


def predict(job_at, first, rows):
    """``p = link(z)`` in place; the lanes behind become 0."""
    job = record_at(job_at, 0, JOB)
    workspace, layer = views(job).workspace, layer_of(job, job.n_layers - 1)
    if job.loss == CROSS_ENTROPY:
        for i in range(first, first + rows):
            softmax(workspace, layer.z + i * layer.z_row, layer.outputs)
    else:
        link(workspace, layer, job.loss, first, rows)


UNITS = tuple(
    Unit(function, *(types.int64,) * 3) for function in (loss_forward, loss_backward, predict)
)
