"""The buffers of a network, and the job: the record that all kernels take their arguments from.

A region takes the number of a task and the address of the job. Python fills in the job, in which
arrays are addresses, and keeps the arrays alive. Inside the kernels, `buffers_of` returns the
buffers as arrays.
"""

import ctypes
from typing import NamedTuple

import numpy as np

from fastnn.kernels.jit.compiling import jit
from fastnn.kernels.jit.simd import array_at, record_at
from fastnn.kernels.layers.dense import BLOCK_SIZE, INPUT_BLOCK
from fastnn.kernels.layers.zeros import MASK_PADDING, list_size
from fastnn.kernels.layout import LAYER, Layout, panels_for

ROW_BLOCK = 64  # rows of a row block: they pass through all layers together, and stay in the cache
ALIGNMENT = 64  # bytes: a cache line, and the widest vector register

# Modes of a job: how far the rows region goes.
TRAIN, EVALUATE, PREDICT = 0, 1, 2
# Whether the first layer skips zeros: never, always, or in each row block where it is faster.
# Training decides for all rows together, because the weights region needs one answer.
NEVER, ALWAYS, BY_BLOCK = 0, 1, 2
# Rules of the update after a batch; KEEP_GRADIENT stores the gradient and updates nothing.
KEEP_GRADIENT, SGD, MOMENTUM, ADAM = 0, 1, 2, 3
STATE_SLOTS = 2  # largest number of slots: values of the optimizer's state per parameter


def _fields(dtype, *names):
    return [(name, dtype) for name in names]


JOB = np.dtype(
    [
        *_fields(np.int64, "address"),  # of the job itself
        # The network: the addresses and sizes of its buffers (see `Workspace`) and of its layers.
        *_fields(np.int64, "layers", "n_layers", "parameters", "gradients", "state"),
        *_fields(np.int64, "parameters_size", "transposed", "transposed_size"),
        *_fields(np.int64, "squares", "squares_size", "scratch", "scratch_size"),
        *_fields(np.int64, "blocks", "losses", "hits", "row_labels", "row_weights", "chunk_rows"),
        *_fields(np.int64, "masks", "masks_size", "mask_stride", "lists", "list_size", "shares"),
        # The entries of a chunk of sparse features (see `sparse.Entries`).
        *_fields(np.int64, "entries_size", "row_starts", "column_starts"),
        *_fields(np.int64, "row_columns", "row_values", "column_rows", "column_values"),
        *_fields(np.float32, "input_scale"),
        *_fields(np.int64, "loss"),
        # The data: addresses of arrays, or 0 for none.
        #   x (feature_rows, I) uint8 or float32; or sparse: the values float32, with x_columns
        #     int32 and x_starts (feature_rows + 1,) int64
        #   selection (data_rows,) int64: the row of x of each row of the data; 0 if it is the same
        #   targets (data_rows,) int32 or (data_rows, O) float32
        #   weights (data_rows,) float32: sample weights
        #   order (n,) int64: the row of the data at each position; 0 if it is the same
        #   out (n, O) float32: predictions
        *_fields(np.bool_, "x_is_bytes", "x_is_sparse"),
        *_fields(np.int64, "x_starts", "x_columns", "selection", "feature_rows"),
        *_fields(np.int8, "skip_zeros"),
        # Flags that kernels set to false: `finite` if a feature is not finite, in PREDICT only;
        # `ordered` if the columns of a sparse row do not increase or are not from 0 to I - 1.
        *_fields(np.bool_, "finite", "ordered"),
        *_fields(np.int64, "x", "data_rows", "targets", "weights", "order", "out"),
        *_fields(np.int64, "tasks", "mode", "rule", "n", "batch_size"),
        # The constants of the rule, where rest1 is 1 - beta1 and rest2 is 1 - beta2; and the
        # addresses of arrays (updates,) float32 with the values of each update.
        *_fields(np.float32, "momentum", "beta1", "rest1", "beta2", "rest2", "eps"),
        *_fields(np.bool_, "nesterov"),
        *_fields(np.int64, "step_sizes", "decays", "penalties", "denominators", "updates"),
        *_fields(np.float32, "clip_norm"),
        # Dropout: the seed and the epoch of its masks, and whether any layer has dropout.
        *_fields(np.int64, "seed", "epoch"),
        *_fields(np.bool_, "has_dropout"),
        # The progress: the position, the position to stop at, and the sums.
        *_fields(np.int64, "position", "stop"),
        *_fields(np.float64, "loss_sum", "correct"),
        # The current chunk, as `fastnn.epoch.next_chunk` returned it, and the values of its update.
        *_fields(np.int64, "start", "rows"),
        *_fields(np.bool_, "first", "last", "clipping"),
        *_fields(np.float32, "rate", "decay", "l2", "denominator", "clip_factor"),
    ],
    align=True,
)


Job = np.ctypeslib.as_ctypes_type(JOB)  # the same record, for Python to fill in


class Buffers(NamedTuple):
    """The buffers of a job as arrays; see `Workspace`."""

    parameters: np.ndarray
    gradients: np.ndarray
    state: np.ndarray
    squares: np.ndarray
    transposed: np.ndarray
    scratch: np.ndarray
    blocks: np.ndarray
    losses: np.ndarray
    hits: np.ndarray
    row_labels: np.ndarray
    row_weights: np.ndarray
    masks: np.ndarray
    lists: np.ndarray
    shares: np.ndarray


@jit
def buffers_of(job):
    """Return the buffers of a job."""
    size = job.parameters_size
    return Buffers(
        array_at(job.parameters, size, np.float32),
        array_at(job.gradients, size, np.float32),
        array_at(job.state, STATE_SLOTS * size, np.float32),
        array_at(job.squares, 2 * job.squares_size, np.float32),
        array_at(job.transposed, job.transposed_size, np.float32),
        array_at(job.scratch, job.scratch_size, np.float32),
        array_at(job.blocks, job.tasks * BLOCK_SIZE, np.float32),
        array_at(job.losses, job.chunk_rows, np.float32),
        array_at(job.hits, job.chunk_rows, np.uint8),
        array_at(job.row_labels, job.chunk_rows, np.int32),
        array_at(job.row_weights, job.chunk_rows, np.float32),
        array_at(job.masks, job.masks_size, np.uint16),
        array_at(job.lists, job.tasks * job.list_size, np.int32),
        array_at(job.shares, job.tasks + 1, np.int64),
    )


@jit
def layer_of(job, i):
    """Return row i of the job's layer table."""
    return record_at(job.layers, i, LAYER)


def address(array: np.ndarray) -> int:
    """Return the address of the data of a C-contiguous array.

    `from_buffer` takes a third of the time of `__array_interface__`, which matters for predictions
    of a single row. It raises an error for empty and read-only arrays.
    """
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    except (TypeError, ValueError):
        return array.__array_interface__["data"][0]


def aligned_zeros(size: int, dtype: type = np.float32) -> np.ndarray:
    """Return zeros (size,) whose data begin on a cache line."""
    count = size * np.dtype(dtype).itemsize
    raw = np.zeros(count + ALIGNMENT, np.uint8)
    start = -address(raw) % ALIGNMENT
    return raw[start : start + count].view(dtype)


class Workspace:
    """The buffers of one network, allocated once, and the job that refers to them.

    Attributes
    ----------
    parameters : ndarray (parameters_size,) float32
        Weights and biases, in panels.
    gradients : ndarray (parameters_size,) float32
        Gradient of a batch, if it is kept, clipped, or the sum of several chunks.
    state : ndarray (STATE_SLOTS · parameters_size,) float32
        State of the optimizer: velocities; or mean gradients, and after them mean squares.
    transposed : ndarray (transposed_size,) float32
        Transposed weights of all layers but the first.
    squares : ndarray (2 · squares_size,) float32
        Sums of squared weights, for the penalty; after them those of squared gradients.
    scratch : ndarray (scratch_size,) float32
        Activations and their gradients of a chunk.
    blocks : ndarray (threads · BLOCK_SIZE,) float32
        For each task the gradient of one weight block.
    losses, hits, row_labels, row_weights : ndarray (rows,), float32, uint8, int32 and float32
        Values of each row of a chunk; hits tells whether its prediction is correct.
    masks : ndarray (groups · mask_stride,) uint16
        Masks of nonzeros: bits that tell which features of each row are not zero (see `zeros`).
    lists : ndarray (threads · list_size,) int32
        For each task the lists of k over which the products run (see `zeros`).
    shares : ndarray (threads + 1,) int64
        The first group of inputs of each task in the first layer, if zeros are skipped or the
        features are sparse; then the number of groups.
    job : Job
    """

    def __init__(
        self, layout: Layout, rows: int, threads: int, input_scale: float, loss: int
    ) -> None:
        self.layout = layout  # keeps the layer table alive
        size = layout.parameters_size
        self.parameters, self.gradients = aligned_zeros(size), aligned_zeros(size)
        self.state = aligned_zeros(STATE_SLOTS * size)
        self.squares = aligned_zeros(2 * layout.squares_size)
        self.transposed = aligned_zeros(layout.transposed_size)
        self.scratch = aligned_zeros(layout.scratch_size)
        self.blocks = aligned_zeros(threads * BLOCK_SIZE)
        self.losses, self.hits = aligned_zeros(rows), aligned_zeros(rows, np.uint8)
        self.row_labels, self.row_weights = aligned_zeros(rows, np.int32), aligned_zeros(rows)
        mask_stride = rows + MASK_PADDING
        groups = panels_for(layout.table[0]["inputs"] + 1)
        size_of_lists = list_size(rows, ROW_BLOCK, INPUT_BLOCK)
        self.masks = aligned_zeros(groups * mask_stride, np.uint16)
        self.lists = aligned_zeros(threads * size_of_lists, np.int32)
        self.shares = aligned_zeros(threads + 1, np.int64)
        self.job = Job(
            **{name: address(getattr(self, name)) for name in Buffers._fields},
            layers=address(layout.table),
            n_layers=len(layout.table),
            parameters_size=size,
            transposed_size=layout.transposed_size,
            squares_size=layout.squares_size,
            scratch_size=layout.scratch_size,
            chunk_rows=rows,
            masks_size=len(self.masks),
            mask_stride=mask_stride,
            list_size=size_of_lists,
            input_scale=input_scale,
            loss=loss,
        )
