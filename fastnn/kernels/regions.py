"""A training step as two parallel regions, and the loop over chunks that calls them.

::

    run                            compiled loop over chunks; for each chunk
      ├─ rows_region, per task     a share of the chunk's rows: gather, forward, loss, deltas
      └─ weights_region, per task  a share of every layer's inputs: dw, update, transpose
                                   (`kernels.weights`)

A task touches only its rows in the first region and only its weights in the second, so nothing
is locked, and nothing is added in an order that depends on the number of tasks. Twin of
`reference.engine`; `kernels.engine` is the engine around it.
"""

import math

import numpy as np
from numba import prange

from fastnn import epoch as batches
from fastnn.kernels.gemm.tile import LISTED_SAMPLES
from fastnn.kernels.jit.compiling import jit
from fastnn.kernels.jit.simd import (
    ONE,
    array_at,
    call_region,
    flush_denormals,
    prefetch,
    record_at,
    restore_denormals,
)
from fastnn.kernels.layers.dense import dense_backward_input, dense_forward, dense_forward_listed
from fastnn.kernels.layers.sparse import UNITS as SPARSE_UNITS
from fastnn.kernels.layers.sparse import (
    dense_forward_sparse,
    feature_row,
    place_entries,
    source_row,
)
from fastnn.kernels.layers.zeros import few_marked, mark
from fastnn.kernels.pointwise.activations import NO_SLOPES, activation_backward, activation_forward
from fastnn.kernels.pointwise.dropout import drop
from fastnn.kernels.pointwise.elementary import all_finite
from fastnn.kernels.pointwise.losses import CROSS_ENTROPY, UNITS
from fastnn.kernels.workspace import (
    BY_BLOCK,
    JOB,
    NEVER,
    PREDICT,
    ROW_BLOCK,
    TRAIN,
    layer_of,
    views,
)
from fastnn.model.randomness import LEVELS

ROWS_AHEAD = 16  # that are asked for before they are needed
ROW_UNIT = 8  # rows are dealt out to tasks in eights, whole register tiles

_loss_forward, _loss_backward, _predict = (unit.call for unit in UNITS)
(_gather_entries,) = (unit.call for unit in SPARSE_UNITS)

next_chunk = jit(batches.next_chunk)


@jit
def share(count, unit, task, tasks):
    """Return where a task's share of `count` things starts and stops, in whole units."""
    units = (count + unit - 1) // unit
    return units * task // tasks * unit, min(count, units * (task + 1) // tasks * unit)


# ---- rows: forward, loss, deltas ------------------------------------------------------------


@jit
def gather(buffers, job, first, place, rows, start, stop):
    """Copy a block of rows, scaled, into the first `a` from `place` on, and its labels.

    The block is of a task's share of the chunk, from row `start` to row `stop`.
    """
    layer = layer_of(job, 0)
    inputs, scale, workspace = layer.inputs, job.input_scale, buffers.workspace
    for i in range(rows):
        position = job.start + first + i
        source = source_row(job, position)
        feature = feature_row(job, source)
        at = layer.a + (place + i) * layer.a_row
        ahead = first + i + ROWS_AHEAD  # in this share, or in the next chunk's
        prefetch_row(job, job.start + (ahead if ahead < stop else job.rows + start + ahead - stop))
        if job.x_is_sparse:
            _gather_entries(job.this, first + i, feature)
            if job.mode != PREDICT:
                gather_target(buffers, job, source, place + i)
            continue
        if job.x_is_bytes:
            x = array_at(job.x + feature * inputs, inputs, np.uint8)
            for k in range(inputs):
                workspace[at + k] = np.float32(x[k]) * scale
        else:
            x = array_at(job.x + 4 * feature * inputs, inputs, np.float32)
            for k in range(inputs):
                workspace[at + k] = x[k] * scale
            if job.mode == PREDICT and not all_finite(job.x + 4 * feature * inputs, inputs):
                job.finite = False
        workspace[at + inputs] = ONE
        if job.mode != PREDICT:
            gather_target(buffers, job, source, place + i)


@jit
def gather_target(buffers, job, source, row):
    """Copy a row's label or target values, and its weight, to a row of the chunk."""
    if job.loss == CROSS_ENTROPY:
        buffers.labels[row] = array_at(job.targets, job.data_rows, np.int32)[source]
    else:
        layer = layer_of(job, job.n_layers - 1)
        values = array_at(job.targets + 4 * source * layer.outputs, layer.outputs, np.float32)
        at = layer.targets + row * layer.z_row
        for j in range(layer.outputs):
            buffers.workspace[at + j] = values[j]
    if job.weights != 0:
        buffers.weights[row] = array_at(job.weights, job.data_rows, np.float32)[source]


@jit
def mark_block(buffers, job, first, rows):
    """Mark what is not zero in the block's features, if that is wanted; return whether it was."""
    if job.skip_zeros == NEVER:
        return False
    layer, stride = layer_of(job, 0), job.mask_stride
    width = layer.inputs + 1
    sample = min(rows, LISTED_SAMPLES)
    for i in range(first, first + rows):
        mark(buffers.masks, stride, i, buffers.workspace, layer.a + i * layer.a_row, width)
        sampled = job.skip_zeros == BY_BLOCK and i + 1 == first + sample
        if sampled and not few_marked(buffers.masks, stride, first, sample, width):
            return False
    return True


@jit
def prefetch_row(job, position):
    """Ask for the features of a position that comes soon: shuffled rows are far apart."""
    if position < job.n and not job.x_is_sparse:
        inputs = layer_of(job, 0).inputs
        size = inputs if job.x_is_bytes else 4 * inputs
        address = job.x + feature_row(job, source_row(job, position)) * size
        for offset in range(0, size, 64):
            prefetch(address + offset)


@jit
def forward(buffers, job, task, first, place, rows):
    """Run a block of rows through all layers; the last ``z = x w + b`` ends up in its place.

    They are the rows of the chunk from `first` on, and lie in the workspace from row `place` on.
    """
    training, listed = job.mode == TRAIN, False
    for i in range(job.n_layers):
        layer = layer_of(job, i)
        sparse = i == 0 and job.x_is_sparse
        if job.drops and layer.keep_level < LEVELS and not sparse:
            drop_inputs(buffers, job, i, first, rows)
        if i == 0 and not sparse:
            listed = mark_block(buffers, job, place, rows)
        if sparse:
            dense_forward_sparse(buffers, job, first, place, rows)
        elif listed and i == 0:
            dense_forward_listed(
                buffers.workspace, buffers.parameters, layer, place, rows,
                buffers.masks, job.mask_stride, buffers.lists, task * job.list_size,
            )  # fmt: skip
        else:
            dense_forward(buffers.workspace, buffers.parameters, layer, place, rows)
        if i + 1 < job.n_layers:
            activation_forward(buffers.workspace, layer, place, rows, training)


@jit
def drop_inputs(buffers, job, i, first, rows):
    """Drop some of a layer's inputs, and the slopes that belong to them."""
    layer = layer_of(job, i)
    for part in range(2 if i > 0 else 1):
        at = layer.a
        if part == 1:
            at = layer_of(job, i - 1).slopes
        if at != NO_SLOPES:
            drop(buffers.workspace, at + first * layer.a_row, layer, job, i, first, rows)


@jit
def backward(buffers, job, first, rows):
    """Bring the last layer's `dz` back through all layers but the first."""
    for i in range(job.n_layers - 1, 0, -1):
        layer, before = layer_of(job, i), layer_of(job, i - 1)
        dense_backward_input(buffers.workspace, buffers.transposed, layer, before, first, rows)
        a = layer.a + first * layer.a_row
        activation_backward(buffers.workspace, before, first, rows, a, layer.a_row)
        if job.drops and layer.keep_level < LEVELS and before.slopes == NO_SLOPES:
            # Of a ReLU: what was dropped has no slope already, and the rest takes the factor.
            factor, width = layer.keep_factor, before.outputs
            for j in range(rows):
                dz = before.dz + (first + j) * before.dz_row
                for k in range(dz, dz + width):
                    buffers.workspace[k] *= factor


@jit
def write_predictions(buffers, job, first, place, rows):
    """Turn a block's last z into predictions, and copy them to the job's `out`."""
    layer = layer_of(job, job.n_layers - 1)
    _predict(job.this, place, rows)
    out = array_at(job.out, job.n * layer.outputs, np.float32)
    for i in range(rows):
        at = layer.z + (place + i) * layer.z_row
        target = (job.start + first + i) * layer.outputs
        for j in range(layer.outputs):
            out[target + j] = buffers.workspace[at + j]


def rows_region(task, address):
    """Region 1: a task's share of the chunk's rows, block by block through all layers and back."""
    job = record_at(address, 0, JOB)
    buffers = views(job)
    state = flush_denormals()
    start, stop = share(job.rows, ROW_UNIT, task, job.tasks)
    for first in range(start, stop, ROW_BLOCK):
        rows = min(ROW_BLOCK, stop - first)
        if job.mode == PREDICT:  # always in the same place, which stays in the cache
            gather(buffers, job, first, start, rows, start, stop)
            forward(buffers, job, task, first, start, rows)
            write_predictions(buffers, job, first, start, rows)
            continue
        gather(buffers, job, first, first, rows, start, stop)
        forward(buffers, job, task, first, first, rows)
        _loss_forward(job.this, first, rows)
        if job.mode == TRAIN:
            _loss_backward(job.this, first, rows)
            backward(buffers, job, first, rows)
    restore_denormals(state)


# ---- the loop over chunks -------------------------------------------------------------------


@jit
def open_chunk(job):
    """Cut the next chunk off the epoch, and tell the regions."""
    chunk = next_chunk(job.position, job.n, job.batch_size)
    job.start = chunk.start
    job.rows = chunk.stop - chunk.start
    job.first = chunk.first
    job.last = chunk.last
    job.clipping = False
    if job.x_is_sparse:
        place_entries(job)
    if job.mode == TRAIN:
        number = job.start // job.batch_size
        job.rate = array_at(job.rates, job.updates, np.float32)[number]
        job.decay = array_at(job.decays, job.updates, np.float32)[number]
        job.l2 = array_at(job.penalties, job.updates, np.float32)[number]
        job.norm = array_at(job.norms, job.updates, np.float32)[number]


@jit
def add_losses(job, buffers):
    """Add the chunk's losses and hits to the running sums; return whether to continue."""
    loss_sum, correct = 0.0, 0.0  # float64: sums of a whole epoch
    for i in range(job.rows):
        loss_sum += buffers.losses[i]
        correct += buffers.hits[i] * (buffers.weights[i] if job.weights != 0 else ONE)
    job.loss_sum += loss_sum
    job.correct += correct
    return math.isfinite(job.loss_sum) and job.ordered


@jit
def add_penalty(job, buffers):
    """Add ``l2 / 2 · Σ w²`` to the losses of a batch that is complete."""
    total = 0.0
    for i in range(job.squares_size):
        total += buffers.squares[i]
    job.loss_sum += job.norm * (0.5 * job.l2 * total)


@jit
def measure_gradient(job, buffers):
    """Decide what a batch's gradient is multiplied by, so as not to be too long."""
    total = 0.0
    for i in range(job.squares_size, 2 * job.squares_size):
        total += buffers.squares[i]
    norm = math.sqrt(total)
    shrink = job.clip_norm / norm if norm > job.clip_norm else 1.0
    job.shrink = np.float32(shrink if norm < math.inf else math.nan)  # divergence, and seen as it


def run(rows_address, weights_address, address):
    """Run the job from its position to its stop, chunk by chunk; end early on a bad loss."""
    job = record_at(address, 0, JOB)
    buffers = views(job)
    while job.position < job.stop:
        open_chunk(job)
        # A gradient that is to be clipped must be whole before it is applied.
        clips = job.last and job.clip_norm > 0
        for phase in range((3 if clips else 2) if job.mode == TRAIN else 1):
            if phase == 2:
                measure_gradient(job, buffers)
                job.clipping = True
            region = rows_address if phase == 0 else weights_address
            if job.tasks == 1:
                call_region(region, 0, address)
            else:
                for task in prange(job.tasks):
                    call_region(region, np.int64(task), address)  # prange counts unsigned
            if phase == 0 and job.mode != PREDICT:
                sound = add_losses(job, buffers)
                if job.mode == TRAIN and not sound:
                    return
        if job.mode == TRAIN and job.last and job.l2 != 0:
            add_penalty(job, buffers)
        job.position = job.start + job.rows
