"""The loop over chunks, and its first parallel region: forward and backward over rows.

::

    run                            compiled loop over chunks; for each chunk
      ├─ rows_region, per task     a share of the chunk's rows: gather, forward, loss, backward
      └─ weights_region, per task  a share of each layer's inputs: gradient, update, transpose
                                   (`kernels.weights`)

The loop is serial. A region is divided into tasks, which run in parallel. A task is one share of
the region's work; there are at most as many tasks as threads. A region is called as
``region(task, job)``, with the number of the task and the address of the job.

In the first region a task writes only to its rows, in the second only to its weights. Tasks also
share the flags `job.finite` and `job.ordered`, but only ever set them to false. So there are no
locks, and no sum is in an order that depends on the number of tasks. `kernels.engine` calls `run`;
`reference.engine` has the same steps in NumPy.
"""

import math

import numpy as np
from numba import prange

from fastnn import epoch
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
from fastnn.kernels.layers.sparse import (
    data_row,
    dense_forward_sparse,
    feature_row,
    gather_entries,
    place_entries,
)
from fastnn.kernels.layers.zeros import is_sparse_enough, write_masks
from fastnn.kernels.pointwise.activations import NO_SLOPES, activation_backward, activation_forward
from fastnn.kernels.pointwise.dropout import drop
from fastnn.kernels.pointwise.elementary import all_finite
from fastnn.kernels.pointwise.losses import CROSS_ENTROPY, loss_backward, loss_forward, predict
from fastnn.kernels.workspace import (
    BY_BLOCK,
    JOB,
    NEVER,
    PREDICT,
    ROW_BLOCK,
    TRAIN,
    buffers_of,
    layer_of,
)
from fastnn.model.randomness import LEVELS

ROWS_AHEAD = 16  # rows between the one that is gathered and the one that is prefetched
ROW_GRANULE = 8  # tasks get multiples of 8 rows: complete register tiles
CACHE_LINE = 64  # bytes

next_chunk = jit(epoch.next_chunk)


@jit
def share(count, granule, task, tasks):
    """Return the start and the end of a task's share of `count` items.

    Shares are cut at multiples of `granule`.
    """
    n = (count + granule - 1) // granule
    return n * task // tasks * granule, min(count, n * (task + 1) // tasks * granule)


# ---- rows: forward, loss, backward ----------------------------------------------------------


@jit
def gather(buffers, job, first, to, rows, start, stop):
    """Copy a row block's features, scaled, its targets and its sample weights to the buffers.

    The row block is rows `first` to ``first + rows`` of the chunk, in a task's share from `start`
    to `stop`. Its features are written to the first layer's `x` from row `to` on.
    """
    layer = layer_of(job, 0)
    inputs, scale, scratch = layer.inputs, job.input_scale, buffers.scratch
    for i in range(rows):
        row = data_row(job, job.start + first + i)
        feature = feature_row(job, row)
        at = layer.x + (to + i) * layer.x_row
        ahead = first + i + ROWS_AHEAD  # in this share, or in that of the next chunk
        prefetch_row(job, job.start + (ahead if ahead < stop else job.rows + start + ahead - stop))
        if job.x_is_sparse:
            gather_entries(job.address, first + i, feature)
        elif job.x_is_bytes:
            x = array_at(job.x + feature * inputs, inputs, np.uint8)
            for k in range(inputs):
                scratch[at + k] = np.float32(x[k]) * scale
            scratch[at + inputs] = ONE
        else:
            x = array_at(job.x + 4 * feature * inputs, inputs, np.float32)
            for k in range(inputs):
                scratch[at + k] = x[k] * scale
            if job.mode == PREDICT and not all_finite(job.x + 4 * feature * inputs, inputs):
                job.finite = False
            scratch[at + inputs] = ONE
        if job.mode != PREDICT:
            gather_target(buffers, job, row, to + i)


@jit
def gather_target(buffers, job, row, to):
    """Copy the target of a row of the data, and its sample weight, to row `to` of the buffers."""
    if job.loss == CROSS_ENTROPY:
        buffers.row_labels[to] = array_at(job.targets, job.data_rows, np.int32)[row]
    else:
        layer = layer_of(job, job.n_layers - 1)
        values = array_at(job.targets + 4 * row * layer.outputs, layer.outputs, np.float32)
        at = layer.targets + to * layer.z_row
        for j in range(layer.outputs):
            buffers.scratch[at + j] = values[j]
    if job.weights != 0:
        buffers.row_weights[to] = array_at(job.weights, job.data_rows, np.float32)[row]


@jit
def prefetch_row(job, position):
    """Prefetch the features of a later position: shuffled rows are far apart in memory."""
    if position < job.n and not job.x_is_sparse:
        inputs = layer_of(job, 0).inputs
        size = inputs if job.x_is_bytes else 4 * inputs
        address = job.x + feature_row(job, data_row(job, position)) * size
        for offset in range(0, size, CACHE_LINE):
            prefetch(address + offset)


@jit
def mask_block(buffers, job, first, rows):
    """Write the masks of a row block's features; return whether products should skip zeros."""
    if job.skip_zeros == NEVER:
        return False
    layer, stride = layer_of(job, 0), job.mask_stride
    width = layer.inputs + 1
    sample = min(rows, LISTED_SAMPLES)
    for i in range(first, first + rows):
        write_masks(buffers.masks, stride, i, buffers.scratch, layer.x + i * layer.x_row, width)
        sampled = job.skip_zeros == BY_BLOCK and i + 1 == first + sample
        if sampled and not is_sparse_enough(buffers.masks, stride, first, sample, width):
            return False
    return True


@jit
def forward(buffers, job, task, first, to, rows):
    """Compute all layers for a row block: ``z = x w + b``, ``a = activation(z)``.

    The row block is rows `first` to ``first + rows`` of the chunk, in the buffers from row `to` on.
    """
    training, listed = job.mode == TRAIN, False
    for i in range(job.n_layers):
        layer = layer_of(job, i)
        sparse_inputs = i == 0 and job.x_is_sparse
        if job.has_dropout and layer.keep_level < LEVELS and not sparse_inputs:
            drop_inputs(buffers, job, i, first, rows)
        if i == 0 and not sparse_inputs:
            listed = mask_block(buffers, job, to, rows)
        if sparse_inputs:
            dense_forward_sparse(buffers, job, first, to, rows)
        elif listed and i == 0:
            dense_forward_listed(
                buffers.scratch, buffers.parameters, layer, to, rows,
                buffers.masks, job.mask_stride, buffers.lists, task * job.list_size,
            )  # fmt: skip
        else:
            dense_forward(buffers.scratch, buffers.parameters, layer, to, rows)
        if i + 1 < job.n_layers:
            activation_forward(buffers.scratch, layer, to, rows, training)


@jit
def drop_inputs(buffers, job, i, first, rows):
    """Apply dropout to a layer's inputs, and to the slopes of the layer before, if it has any."""
    layer = layer_of(job, i)
    offset = first * layer.x_row
    drop(buffers.scratch, layer.x + offset, layer, job, i, first, rows)
    slopes = layer_of(job, i - 1).slopes if i > 0 else NO_SLOPES
    if slopes != NO_SLOPES:
        drop(buffers.scratch, slopes + offset, layer, job, i, first, rows)


@jit
def backward(buffers, job, first, rows):
    """Compute `dz` of all layers for a row block, from the last layer's `dz`."""
    for i in range(job.n_layers - 1, 0, -1):
        layer, previous = layer_of(job, i), layer_of(job, i - 1)
        dense_backward_input(buffers.scratch, buffers.transposed, layer, previous, first, rows)
        a = layer.x + first * layer.x_row  # the previous layer's output
        activation_backward(buffers.scratch, previous, first, rows, a, layer.x_row)
        if job.has_dropout and layer.keep_level < LEVELS and previous.slopes == NO_SLOPES:
            # ReLU: dz is 0 already where an output was dropped; the other outputs were scaled.
            factor, width = layer.keep_factor, previous.outputs
            for j in range(rows):
                dz = previous.dz + (first + j) * previous.dz_row
                for k in range(dz, dz + width):
                    buffers.scratch[k] *= factor


@jit
def write_predictions(buffers, job, first, to, rows):
    """Turn a row block's last z into predictions, and copy them to the job's `out`."""
    layer = layer_of(job, job.n_layers - 1)
    predict(job.address, to, rows)
    out = array_at(job.out, job.n * layer.outputs, np.float32)
    for i in range(rows):
        at = layer.z + (to + i) * layer.z_row
        target = (job.start + first + i) * layer.outputs
        for j in range(layer.outputs):
            out[target + j] = buffers.scratch[at + j]


def rows_region(task, address):
    """Compute a task's share of the chunk's rows: forward, loss and backward of each row block."""
    job = record_at(address, 0, JOB)
    buffers = buffers_of(job)
    state = flush_denormals()
    start, stop = share(job.rows, ROW_GRANULE, task, job.tasks)
    for first in range(start, stop, ROW_BLOCK):
        rows = min(ROW_BLOCK, stop - first)
        if job.mode == PREDICT:  # row blocks reuse the first rows of the buffers, which stay cached
            gather(buffers, job, first, start, rows, start, stop)
            forward(buffers, job, task, first, start, rows)
            write_predictions(buffers, job, first, start, rows)
            continue
        gather(buffers, job, first, first, rows, start, stop)
        forward(buffers, job, task, first, first, rows)
        loss_forward(job.address, first, rows)
        if job.mode == TRAIN:
            loss_backward(job.address, first, rows)
            backward(buffers, job, first, rows)
    restore_denormals(state)


# ---- the loop over chunks -------------------------------------------------------------------


@jit
def open_chunk(job):
    """Write the next chunk and the values of its update to the job."""
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
        job.rate = array_at(job.step_sizes, job.updates, np.float32)[number]
        job.decay = array_at(job.decays, job.updates, np.float32)[number]
        job.l2 = array_at(job.penalties, job.updates, np.float32)[number]
        job.denominator = array_at(job.denominators, job.updates, np.float32)[number]


@jit
def add_losses(job, buffers):
    """Add the chunk's losses and hits to the job's sums; return whether training can continue."""
    loss_sum, correct = 0.0, 0.0  # float64, for the sums of an epoch
    for i in range(job.rows):
        loss_sum += buffers.losses[i]
        correct += buffers.hits[i] * (buffers.row_weights[i] if job.weights != 0 else ONE)
    job.loss_sum += loss_sum
    job.correct += correct
    return math.isfinite(job.loss_sum) and job.ordered


@jit
def add_penalty(job, buffers):
    """Add the penalty ``l2 / 2 · Σ w²`` of a batch to the sum of losses."""
    total = 0.0
    for i in range(job.squares_size):
        total += buffers.squares[i]
    job.loss_sum += job.denominator * (0.5 * job.l2 * total)


@jit
def set_clip_factor(job, buffers):
    """Set the factor that clips a batch's gradient: ``min(1, clip_norm / √Σ dw²)``."""
    total = 0.0
    for i in range(job.squares_size, 2 * job.squares_size):
        total += buffers.squares[i]
    norm = math.sqrt(total)
    factor = job.clip_norm / norm if norm > job.clip_norm else 1.0
    job.clip_factor = np.float32(factor if norm < math.inf else math.nan)  # NaN shows divergence


def run(rows_address, weights_address, address):
    """Run the job from its position to its stop, chunk by chunk.

    In training, stop before the update if the loss is not finite or columns do not increase. The
    arguments are the addresses of the two regions and of the job.
    """
    job = record_at(address, 0, JOB)
    buffers = buffers_of(job)
    while job.position < job.stop:
        open_chunk(job)
        # Phase 0 is the rows region, phase 1 the weights region. Clipping needs the norm of the
        # complete gradient: in phase 2 the weights region runs again and applies it.
        clips = job.last and job.clip_norm > 0
        for phase in range((3 if clips else 2) if job.mode == TRAIN else 1):
            if phase == 2:
                set_clip_factor(job, buffers)
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
