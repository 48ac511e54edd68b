"""The second region: the gradient of all weights over the rows of a chunk, and the update.

A task computes the weights of its share of each layer's inputs in weight blocks. The gradient of a
weight block fits into the L1 cache, where the penalty is added and the update applied at once.
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
from fastnn.kernels.layers.sparse import dense_backward_weights_sparse, sort_columns
from fastnn.kernels.pointwise.updates import (
    accumulate,
    add_l2,
    add_squares,
    apply_rule,
    clip_gradient,
)
from fastnn.kernels.regions import share
from fastnn.kernels.workspace import ALWAYS, JOB, KEEP_GRADIENT, SGD, buffers_of, layer_of

LONG_BLOCK = 8192  # rows times inputs of a weight block whose gradient is not stored


@jit
def apply_gradient(buffers, job, at, block_at, count, weights):
    """Add a weight block's gradient to the batch's, or update the parameters with it.

    The parameters (count,) start at ``parameters[at]``: first `weights` weights, then biases. Their
    gradient (count,) starts at ``blocks[block_at]``.
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
        apply_rule(buffers, job, at, address_in(dw, dw_at), count, weights)


@jit
def sum_squares(buffers, layer, low, high, panel, values, start):
    """Add the squared values of inputs low to high of a panel to the sums of their groups.

    `values` has the layout of the parameters. Each group of NR inputs has NR sums, one for each
    lane; those of all layers start at ``squares[start]``. They are set to 0 before the first panel.
    """
    for i in range(low, high, NR):
        at = start + layer.squares + i
        if panel == 0:
            for j in range(NR):
                buffers.squares[at + j] = ZERO
        row = layer.weights + panel * layer.panel_size + i * NR
        add_squares(buffers.squares, at, values, row, min(NR, high - i) * NR)


@jit
def can_fuse_update(job, listed):
    """Return whether products can apply the SGD update, because nothing else needs the gradient.

    A rate of 0 is excluded: it makes the products write the gradient.
    """
    plain = job.rule == SGD and job.l2 == 0 and job.decay == 0 and job.rate != 0
    plain = plain and job.clip_norm == 0
    return plain and job.first and job.last and (listed or job.rows <= DEPTH_BLOCK)


@jit
def weights_block(buffers, job, task, i, listed, low, high):
    """Compute and apply the gradient of the weights of inputs low to high of layer i."""
    layer = layer_of(job, i)
    lists = task * job.list_size
    if listed:
        list_block(buffers.lists, lists, buffers.masks, job.mask_stride, low, high, job.rows)
    sparse = i == 0 and job.x_is_sparse
    fused = can_fuse_update(job, listed) and not sparse
    rate = job.rate if fused else ZERO
    count = (high - low) * NR
    weight_count = max(0, min(high, layer.inputs) - low) * NR  # without the bias
    for panel in range(0, layer.panels, PANEL_BLOCK):
        panels = min(PANEL_BLOCK, layer.panels - panel)
        weights = layer.weights + panel * layer.panel_size + low * NR
        block = task * BLOCK_SIZE
        c = operand(buffers.blocks, block, NR, INPUT_BLOCK * NR)
        if fused:
            c = operand(buffers.parameters, weights, NR, layer.panel_size)
        if sparse:
            dense_backward_weights_sparse(c, buffers, job, task, low, high, panel, panels, ZERO)
        elif listed:
            dense_backward_weights_listed(
                c, buffers.scratch, layer, low, high, panel, panels, job.rows, rate,
                buffers.lists, lists,
            )  # fmt: skip
        else:
            dense_backward_weights(
                c, buffers.scratch, layer, low, high, panel, panels, job.rows, rate
            )
        for p in range(panels):
            if job.l2 != 0 and job.last:
                last_weight = min(high, layer.inputs)  # biases have no penalty
                sum_squares(buffers, layer, low, last_weight, panel + p, buffers.parameters, 0)
            if not fused:
                at = weights + p * layer.panel_size
                apply_gradient(buffers, job, at, block + p * c.step, count, weight_count)
            if job.clip_norm > 0 and job.last:
                start = job.squares_size
                sum_squares(buffers, layer, low, high, panel + p, buffers.gradients, start)
            elif i > 0 and job.last and job.rule != KEEP_GRADIENT:
                transpose(buffers.transposed, buffers.parameters, layer, low, high, panel + p)


@jit
def apply_clipped(buffers, job, i, low, high):
    """Update the weights of inputs low to high of layer i by the stored gradient, clipped."""
    layer = layer_of(job, i)
    weights = max(0, min(high, layer.inputs) - low) * NR
    for panel in range(layer.panels):
        at, count = layer.weights + panel * layer.panel_size + low * NR, (high - low) * NR
        if job.clip_factor != ONE:
            clip_gradient(buffers.gradients, at, count, job.clip_factor)
        apply_rule(buffers, job, at, address_in(buffers.gradients, at), count, weights)
        if i > 0:
            transpose(buffers.transposed, buffers.parameters, layer, low, high, panel)


def weights_region(task, address):
    """Compute and apply the gradients of the weights of a task's share of each layer's inputs."""
    job = record_at(address, 0, JOB)
    buffers = buffers_of(job)
    state = flush_denormals()
    for i in range(job.n_layers):
        width = layer_of(job, i).inputs + 1
        low, high = share(width, NR, task, job.tasks)
        sparse = i == 0 and job.x_is_sparse
        listed = i == 0 and job.skip_zeros == ALWAYS
        if sparse or listed:
            # The last group may have fewer than NR inputs: an empty share after it starts one past
            # the bias, not at a multiple of NR.
            low = min(width, buffers.shares[task] * NR)
            high = min(width, buffers.shares[task + 1] * NR)
        if job.clipping:
            apply_clipped(buffers, job, i, low, high)
            continue
        if sparse:
            sort_columns(job, task, low, high)
            if can_fuse_update(job, True):
                layer = layer_of(job, 0)
                start = layer.weights + low * NR
                c = operand(buffers.parameters, start, NR, layer.panel_size)
                dense_backward_weights_sparse(
                    c, buffers, job, task, low, high, 0, layer.panels, job.rate
                )
                continue
        block = INPUT_BLOCK
        if can_fuse_update(job, listed) and not listed:
            # No gradient is stored: with few rows, longer weight blocks use memory better.
            block = max(block, LONG_BLOCK // job.rows // NR * NR)
        for first in range(low, high, block):
            weights_block(buffers, job, task, i, listed, first, min(high, first + block))
    restore_denormals(state)
