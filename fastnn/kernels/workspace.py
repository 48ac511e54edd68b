"""Every buffer of a network, and the job: one record that tells the kernels all they need.

A region is called with an address and nothing else, so everything travels in the job, arrays as
their addresses. Python fills the job and keeps the arrays alive; `views` turns the addresses
back into arrays inside the kernels.
"""

import ctypes
from typing import NamedTuple

import numpy as np

from fastnn.kernels.jit.compiling import jit
from fastnn.kernels.jit.simd import array_at, record_at
from fastnn.kernels.layers.dense import BLOCK_SIZE, INPUT_BLOCK
from fastnn.kernels.layers.zeros import MASK_PADDING, list_size
from fastnn.kernels.layout import LAYER, Layout, panels_for

ROW_BLOCK = 64  # rows that go through all layers together: their activations stay in the cache
ALIGNMENT = 64  # bytes: a cache line, and the widest vector register

# What a region is to do with the rows it has run forward.
TRAIN, EVALUATE, PREDICT = 0, 1, 2
# Whether the first layer skips zeros: not, everywhere, or in the blocks of rows where it pays.
# The weights region needs one answer for all rows, so training does not leave it to the blocks.
NEVER, ALWAYS, BY_BLOCK = 0, 1, 2
# What happens to a batch's gradient.
KEEP_GRADIENT, SGD, MOMENTUM, ADAM = 0, 1, 2, 3
STATE_SLOTS = 2  # numbers of state a parameter has at most

JOB = np.dtype(
    [
        ("this", np.int64),  # the job's own address
        # The network: addresses and lengths of its flat vectors, and the layer table.
        *((name, np.int64) for name in ("layers", "n_layers")),
        *((name, np.int64) for name in ("parameters", "gradients", "state", "parameters_size")),
        *((name, np.int64) for name in ("transposed", "transposed_size")),
        *((name, np.int64) for name in ("squares", "squares_size")),
        *((name, np.int64) for name in ("workspace", "workspace_size")),
        *((name, np.int64) for name in ("blocks", "losses", "hits", "row_labels", "row_weights")),
        ("chunk_rows", np.int64),
        *(
            (name, np.int64)
            for name in ("masks", "masks_size", "mask_stride", "lists", "list_size", "shares")
        ),
        # A chunk's entries of sparse features: by rows, and by columns (`sparse.Entries`).
        *((name, np.int64) for name in ("entries_size", "row_starts", "column_starts")),
        *((name, np.int64) for name in ("row_columns", "row_values")),
        *((name, np.int64) for name in ("column_rows", "column_values")),
        ("input_scale", np.float32),
        ("loss", np.int64),
        # The data: x (data_rows, inputs) of uint8 or float32, or sparse: its values float32,
        # columns int32 and starts (source_rows + 1,) int64. Where x_rows (data_rows,) int64 is
        # not 0, they are rows of a larger x (source_rows, inputs). Targets (data_rows,) int32 or
        # (data_rows, outputs) float32; weights (data_rows,) float32, or 0 for none; order (n,)
        # int64, or 0 for all rows as they come; out (n, outputs) float32, for predictions.
        *((name, np.bool_) for name in ("x_is_bytes", "x_is_sparse")),
        *((name, np.int64) for name in ("x_starts", "x_columns", "x_rows", "source_rows")),
        ("skip_zeros", np.int8),
        ("finite", np.bool_),  # stays true where all features that were predicted from are
        ("ordered", np.bool_),  # stays true while sparse columns increase, within range
        *((name, np.int64) for name in ("x", "data_rows", "targets", "weights", "order", "out")),
        # What to do with it.
        *((name, np.int64) for name in ("tasks", "mode", "rule", "n", "batch_size")),
        # The rule's constants, and of each update its rate, its decay, its l2, and what its sums
        # are divided by (float32).
        *((name, np.float32) for name in ("momentum", "beta1", "rest1", "beta2", "rest2", "eps")),
        ("nesterov", np.bool_),
        *((name, np.int64) for name in ("rates", "decays", "penalties", "norms", "updates")),
        ("clip_norm", np.float32),
        # What dropout masks depend on, and whether there are any.
        *((name, np.int64) for name in ("key", "epoch")),
        ("drops", np.bool_),
        # Where it stands: the position, the position to stop at, and the running sums.
        *((name, np.int64) for name in ("position", "stop")),
        *((name, np.float64) for name in ("loss_sum", "correct")),
        # The chunk at hand, as `batches.next_chunk` cut it.
        *((name, np.int64) for name in ("start", "rows")),
        *((name, np.bool_) for name in ("first", "last", "clipping")),
        *((name, np.float32) for name in ("rate", "decay", "l2", "norm", "shrink")),
    ],
    align=True,
)


Job = np.ctypeslib.as_ctypes_type(JOB)  # the same record, for Python to fill


class Views(NamedTuple):
    """A job's buffers, as arrays."""

    parameters: np.ndarray
    gradients: np.ndarray
    state: np.ndarray
    squares: np.ndarray
    transposed: np.ndarray
    workspace: np.ndarray
    blocks: np.ndarray
    losses: np.ndarray
    hits: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    masks: np.ndarray
    lists: np.ndarray
    shares: np.ndarray


@jit
def views(job):
    """The arrays of a job."""
    size = job.parameters_size
    return Views(
        array_at(job.parameters, size, np.float32),
        array_at(job.gradients, size, np.float32),
        array_at(job.state, STATE_SLOTS * size, np.float32),
        array_at(job.squares, 2 * job.squares_size, np.float32),
        array_at(job.transposed, job.transposed_size, np.float32),
        array_at(job.workspace, job.workspace_size, np.float32),
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
    """Return a row of the job's layer table."""
    return record_at(job.layers, i, LAYER)


def address(array: np.ndarray) -> int:
    """Return where a C-contiguous array's data begin.

    The first way takes a third of the second's time, which one row's prediction can tell; it is
    not for arrays that are empty or read-only.
    """
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    except (TypeError, ValueError):
        return array.__array_interface__["data"][0]


def aligned_zeros(size: int, dtype: type = np.float32) -> np.ndarray:
    """Return zeros (size,) that begin on a cache line."""
    count = size * np.dtype(dtype).itemsize
    raw = np.zeros(count + ALIGNMENT, np.uint8)
    start = -address(raw) % ALIGNMENT
    return raw[start : start + count].view(dtype)


class Workspace:
    """The buffers of one network, allocated once, and the job that names them.

    Attributes
    ----------
    parameters, gradients : ndarray (parameters_size,) float32
        In panels: the weights, and the gradient of a batch, where it is kept or takes several
        chunks.
    state : ndarray (STATE_SLOTS · parameters_size,) float32
        The optimizer's, in panels too: velocities; or means, and behind them mean squares.
    transposed : ndarray (transposed_size,) float32
    squares : ndarray (2 · squares_size,) float32
        Sums of squared weights, for the penalty of a batch; and behind them, of its gradient.
    scratch : ndarray (workspace_size,) float32
        A chunk on its way forward and back; nothing in it outlives the chunk.
    blocks : ndarray (threads · BLOCK_SIZE,) float32
        For each task the gradient of the weights at hand.
    losses, hits, labels, weights : ndarray (rows,), float32, uint8, int32 and float32
        Of the chunk's rows: whether a row is predicted right is its hit.
    masks : ndarray (groups · mask_stride,) uint16
        Which features of each row are not zero (`zeros`).
    lists : ndarray (threads · list_size,) int32
        For each task the k that a product runs over.
    shares : ndarray (threads + 1,) int64
        Which groups of the first layer's inputs each task takes where zeros are skipped.
    job : Job
    """

    def __init__(
        self, layout: Layout, rows: int, threads: int, input_scale: float, loss: int
    ) -> None:
        self.layout = layout  # whose table the job names
        size = layout.parameters_size
        self.parameters, self.gradients = aligned_zeros(size), aligned_zeros(size)
        self.state = aligned_zeros(STATE_SLOTS * size)
        self.squares = aligned_zeros(2 * layout.squares_size)
        self.transposed = aligned_zeros(layout.transposed_size)
        self.scratch = aligned_zeros(layout.workspace_size)
        self.blocks = aligned_zeros(threads * BLOCK_SIZE)
        self.losses, self.hits = aligned_zeros(rows), aligned_zeros(rows, np.uint8)
        self.labels, self.weights = aligned_zeros(rows, np.int32), aligned_zeros(rows)
        width = layout.table[0]["inputs"] + 1
        mask_stride = rows + MASK_PADDING
        size_of_lists = list_size(rows, ROW_BLOCK, INPUT_BLOCK)
        self.masks = aligned_zeros(panels_for(width) * mask_stride, np.uint16)
        self.lists = aligned_zeros(threads * size_of_lists, np.int32)
        self.shares = aligned_zeros(threads + 1, np.int64)
        self.job = Job(
            layers=address(layout.table),
            n_layers=len(layout.table),
            parameters=address(self.parameters),
            gradients=address(self.gradients),
            state=address(self.state),
            squares=address(self.squares),
            squares_size=layout.squares_size,
            parameters_size=size,
            transposed=address(self.transposed),
            transposed_size=layout.transposed_size,
            workspace=address(self.scratch),
            workspace_size=layout.workspace_size,
            blocks=address(self.blocks),
            losses=address(self.losses),
            hits=address(self.hits),
            row_labels=address(self.labels),
            row_weights=address(self.weights),
            chunk_rows=rows,
            masks=address(self.masks),
            masks_size=len(self.masks),
            mask_stride=mask_stride,
            lists=address(self.lists),
            list_size=size_of_lists,
            shares=address(self.shares),
            input_scale=input_scale,
            loss=loss,
        )
