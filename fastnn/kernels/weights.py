"""Region 2: the gradient of every weight over the rows of a chunk, and the update.

A task takes its share of every layer's inputs, block by block, small enough for a block's
gradient never to leave the first cache: it is computed, regularised and applied at once.
"""

from fastnn.kernels.gemm.product import DEPTH_BLOCK
from fastnn.kernels.gemm.tile import operand
from fastnn.kernels.jit.compiling import jit
from fastnn.kernels.jit.simd import (
    NR,
    ONE,
    ZERO,
    address_in,
    flush_denormals,
    record_at,
    restore_denormals,
)
from fastnn.kernels.layers.dense import (
    BLOCK_SIZE,
    INPUT_BLOCK,
    PANEL_BLOCK,
    dense_backward_weights,
    dense_backward_weights_listed,
    list_block,
    transpose,
)
from fastnn.kernels.layers.sparse import (
    dense_backward_weights_sparse,
    descend_sparse,
    list_columns,
)
from fastnn.kernels.pointwise.updates import (
    UNITS,
    accumulate,
    add_l2,
    add_squares,
    clip_gradient,
    decay_weights,
)
from fastnn.kernels.regions import share
from fastnn.kernels.workspace import ALWAYS, JOB, KEEP_GRADIENT, SGD, layer_of, views

(_update,) = (unit.call for unit in UNITS)

LONG_BLOCK = 8192  # rows by inputs


@jit
def apply_gradient(buffers, job, at, block_at, count, weights):
    """Keep a run of the chunk's gradient, add it to the batch's, or update the run with it.

    Of the `count` parameters the first `weights` are weights, and the others biases.
    """
    updates = job.last and job.rule != KEEP_GRADIENT and job.clip_norm == 0
    keep = not updates or not job.first
    dw, dw_at = buffers.blocks, block_at
    if keep:
        accumulate(buffers.gradients, at, dw, dw_at, count, job.first)
        dw, dw_at = buffers.gradients, at
    if job.last and job.l2 != 0:
        add_l2(dw, dw_at, buffers.parameters, at, weights, job.l2)
    if updates:
        if job.decay != 0:
            decay_weights(buffers.parameters, at, weights, job.decay)
        _update(job.this, at, address_in(dw, dw_at), count)


@jit
def add_up_squares(buffers, layer, low, high, panel, of, start):
    """Add the squares of a panel's rows low to high to the sums of their inputs.

    `of` is laid out as the parameters are; the sums begin at ``squares[start]``.
    """
    for i in range(low, high, NR):
        at = start + layer.squares + i
        if panel == 0:
            for j in range(NR):
                buffers.squares[at + j] = ZERO
        run = layer.weights + panel * layer.panel_size + i * NR
        add_squares(buffers.squares, at, of, run, min(NR, high - i) * NR, NR)


@jit
def updates_at_once(job, listed):
    """Whether the products that make a gradient may also step down it: nothing else asks for it.

    A rate that is flushed to 0 would have them write the gradient instead.
    """
    plain = job.rule == SGD and job.l2 == 0 and job.decay == 0 and job.rate != 0
    plain = plain and job.clip_norm == 0
    return plain and job.first and job.last and (listed or job.rows <= DEPTH_BLOCK)


@jit
def weights_block(buffers, job, task, i, listed, low, high):
    """Compute the gradient of a layer's inputs low to high, a block at most, and apply it."""
    layer = layer_of(job, i)
    lists = task * job.list_size
    if listed:
        list_block(buffers.lists, lists, buffers.masks, job.mask_stride, low, high, job.rows)
    sparse = i == 0 and job.x_is_sparse  # which is not here where it updates at once
    at_once = updates_at_once(job, listed) and not sparse
    rate = job.rate if at_once else ZERO
    count = (high - low) * NR
    of_weights = max(0, min(high, layer.inputs) - low) * NR  # the rest is the bias
    for panel in range(0, layer.panels, PANEL_BLOCK):
        panels = min(PANEL_BLOCK, layer.panels - panel)
        weights = layer.weights + panel * layer.panel_size + low * NR
        block = task * BLOCK_SIZE
        c = operand(buffers.blocks, block, NR, INPUT_BLOCK * NR)
        if at_once:
            c = operand(buffers.parameters, weights, NR, layer.panel_size)
        if sparse:
            dense_backward_weights_sparse(c, buffers, job, task, low, high, panel, panels)
        elif listed:
            dense_backward_weights_listed(
                c, buffers.workspace, layer, low, high, panel, panels, job.rows, rate,
                buffers.lists, lists,
            )  # fmt: skip
        else:
            dense_backward_weights(
                c, buffers.workspace, layer, low, high, panel, panels, job.rows, rate
            )
        for p in range(panels):
            if job.l2 != 0 and job.last:
                ends = min(high, layer.inputs)  # biases have no penalty
                add_up_squares(buffers, layer, low, ends, panel + p, buffers.parameters, 0)
            if not at_once:
                at = weights + p * layer.panel_size
                apply_gradient(buffers, job, at, block + p * c.step, count, of_weights)
            if job.clip_norm > 0 and job.last:
                start = job.squares_size
                add_up_squares(buffers, layer, low, high, panel + p, buffers.gradients, start)
            elif i > 0 and job.last and job.rule != KEEP_GRADIENT:
                transpose(buffers.transposed, buffers.parameters, layer, low, high, panel + p)


@jit
def clipped_block(buffers, job, i, low, high):
    """Update a layer's inputs low to high by the gradient that is kept, shortened."""
    layer = layer_of(job, i)
    weights = max(0, min(high, layer.inputs) - low) * NR
    for panel in range(layer.panels):
        at, count = layer.weights + panel * layer.panel_size + low * NR, (high - low) * NR
        if job.shrink != ONE:
            clip_gradient(buffers.gradients, at, count, job.shrink)
        if job.decay != 0:
            decay_weights(buffers.parameters, at, weights, job.decay)
        _update(job.this, at, address_in(buffers.gradients, at), count)
        if i > 0:
            transpose(buffers.transposed, buffers.parameters, layer, low, high, panel)


def weights_region(task, address):
    """Region 2: a task's share of every layer's inputs, over all rows of the chunk."""
    job = record_at(address, 0, JOB)
    buffers = views(job)
    state = flush_denormals()
    for i in range(job.n_layers):
        width = layer_of(job, i).inputs + 1
        low, high = share(width, NR, task, job.tasks)
        sparse = i == 0 and job.x_is_sparse
        listed = i == 0 and job.skip_zeros == ALWAYS
        if sparse or listed:
            # An empty share at the end begins where the inputs end, not where their panel does.
            low = min(width, buffers.shares[task] * NR)
            high = min(width, buffers.shares[task + 1] * NR)
        if job.clipping:
            clipped_block(buffers, job, i, low, high)
            continue
        if sparse:
            list_columns(job, task, low, high)
            if updates_at_once(job, True):
                descend_sparse(buffers, job, task, low, high)
                continue
        block = INPUT_BLOCK
        if updates_at_once(job, listed) and not listed:
            # No gradient to hold: with few rows, long runs of weights, as memory likes them.
            block = max(block, LONG_BLOCK // job.rows // NR * NR)
        for first in range(low, high, block):
            weights_block(buffers, job, task, i, listed, first, min(high, first + block))
    restore_denormals(state)
