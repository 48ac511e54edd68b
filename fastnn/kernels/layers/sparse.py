"""The first layer over sparse features.

An entry is a stored feature with its column. In the forward pass the product of a row runs over its
entries. In the backward pass the gradient of an input's weights runs over the rows with an entry in
its column, so each task sorts the entries of its share of the columns. Both are chains of
multiply-adds in the order of the dense products, so the results are bit-identical.
"""

from typing import NamedTuple

import numpy as np
from numba import types

from fastnn.epoch import CHUNK_ROWS
from fastnn.kernels.gemm.product import multiply_compact
from fastnn.kernels.gemm.tile import operand, skip_rows
from fastnn.kernels.jit.compiling import jit, unit
from fastnn.kernels.jit.philox import keep_bits
from fastnn.kernels.jit.simd import NR, ONE, ZERO, address_in, array_at, record_at
from fastnn.kernels.layout import panels_for
from fastnn.kernels.pointwise.elementary import all_finite
from fastnn.kernels.workspace import JOB, PREDICT, TRAIN, address, aligned_zeros, layer_of
from fastnn.model.randomness import BLOCK, GROUP, LEVELS

# Work for an input apart from its entries, relative to the work for an entry: if all weights are
# updated, and if only those of inputs with entries are.
_UPDATE_WORK, _SCAN_WORK = 4.0, 0.1


class Entries(NamedTuple):
    """The entries of a chunk, and one more in each row for the bias.

    Attributes
    ----------
    row_starts : ndarray (chunk_rows + 1,) int64
        The first entry of each row, and the end of the last row.
    row_columns, row_values : ndarray, int32 and float32
        The columns and the scaled values, ordered by row, then column; the bias is last in a row.
    column_starts : ndarray (I + 1 + 2 · tasks,) int64
        The first entry of each column of each task's share; see `sort_columns`.
    column_rows, column_values : ndarray, int32 and float32
        The rows and the values, ordered by column, then row.
    """

    row_starts: np.ndarray
    row_columns: np.ndarray
    row_values: np.ndarray
    column_starts: np.ndarray
    column_rows: np.ndarray
    column_values: np.ndarray


@jit
def entries_of(job):
    """Return the entries of a job as arrays."""
    size, columns = job.entries_size, layer_of(job, 0).inputs + 1
    return Entries(
        array_at(job.row_starts, job.chunk_rows + 1, np.int64),
        array_at(job.row_columns, size, np.int32),
        array_at(job.row_values, size, np.float32),
        array_at(job.column_starts, columns + 2 * job.tasks, np.int64),
        array_at(job.column_rows, size, np.int32),
        array_at(job.column_values, size, np.float32),
    )


class EntryBuffers:
    """Buffers for the entries of a chunk."""

    def __init__(self, size: int, inputs: int, threads: int) -> None:
        self.size = size
        arrays = Entries(
            aligned_zeros(CHUNK_ROWS + 1, np.int64),
            aligned_zeros(self.size, np.int32),
            aligned_zeros(self.size),
            aligned_zeros(inputs + 1 + 2 * threads, np.int64),
            aligned_zeros(self.size, np.int32),
            aligned_zeros(self.size),
        )
        self.addresses = {name: address(array) for name, array in arrays._asdict().items()}
        self._arrays = arrays  # keeps their memory alive

    def set_addresses(self, job) -> None:
        """Write the addresses and the size to a job."""
        job.entries_size = self.size
        for name, value in self.addresses.items():
            setattr(job, name, value)


@jit
def data_row(job, position):
    """Return the row of the data at a position of the epoch."""
    if job.order == 0:
        return position
    return array_at(job.order, job.n, np.int64)[position]


@jit
def feature_row(job, row):
    """Return the row of x with the features of a row of the data."""
    if job.selection == 0:
        return row
    return array_at(job.selection, job.data_rows, np.int64)[row]


@jit
def place_entries(job):
    """Write the row starts of the chunk's entries."""
    starts, entries = array_at(job.x_starts, job.feature_rows + 1, np.int64), entries_of(job)
    end = np.int64(0)
    entries.row_starts[0] = end
    for i in range(job.rows):
        feature = feature_row(job, data_row(job, job.start + i))
        end += starts[feature + 1] - starts[feature] + 1
        entries.row_starts[i + 1] = end


@jit
def _columns_are_valid(columns, at, count, inputs):
    """Return whether `count` columns from ``columns[at]`` increase and are from 0 to inputs - 1.

    Python has checked the user's array, which may have changed since then. This checks the copy of
    the chunk, which does not change.
    """
    increasing = True
    for p in range(at + 1, at + count):
        increasing &= columns[p - 1] < columns[p]
    return count == 0 or (increasing and columns[at] >= 0 and columns[at + count - 1] < inputs)


@unit(*(types.int64,) * 3)
def gather_entries(job_address, row, feature):
    """Copy the entries of row `feature` of x, scaled, to row `row` of the chunk; apply dropout."""
    job = record_at(job_address, 0, JOB)
    entries, layer = entries_of(job), layer_of(job, 0)
    starts = array_at(job.x_starts, job.feature_rows + 1, np.int64)
    start, count = starts[feature], starts[feature + 1] - starts[feature]
    columns = array_at(job.x_columns + 4 * start, count, np.int32)
    values = array_at(job.x + 4 * start, count, np.float32)
    if job.mode == PREDICT and not all_finite(job.x + 4 * start, count):
        job.finite = False
    at = entries.row_starts[row]
    for p in range(count):
        entries.row_columns[at + p] = columns[p]
        entries.row_values[at + p] = values[p] * job.input_scale
    if not _columns_are_valid(entries.row_columns, at, count, layer.inputs):
        job.ordered = False
        for p in range(count):
            entries.row_columns[at + p] = layer.inputs  # a valid index
    if job.mode == TRAIN and job.has_dropout and layer.keep_level < LEVELS:
        block, bits = np.int64(-1), np.int64(0)
        for p in range(count):
            column = np.int64(entries.row_columns[at + p])
            if column // BLOCK != block:
                block = column // BLOCK
                position = job.start + row
                bits = keep_bits(job.seed, block * GROUP, position, job.epoch, 0, layer.keep_level)
            kept = (bits >> (column - block * BLOCK)) & 1
            value = entries.row_values[at + p] * layer.keep_factor
            entries.row_values[at + p] = value if kept else ZERO
    entries.row_columns[at + count] = layer.inputs
    entries.row_values[at + count] = ONE


@jit
def dense_forward_sparse(buffers, job, first, to, rows):
    """Compute ``z = [x 1] [w; b]`` for the rows of the chunk from `first` on.

    Writes z (rows, O), from row `to` of the buffers on.
    """
    entries, layer = entries_of(job), layer_of(job, 0)
    for i in range(rows):
        start, stop = entries.row_starts[first + i], entries.row_starts[first + i + 1]
        multiply_compact(
            operand(buffers.scratch, layer.z + (to + i) * layer.z_row, 0, NR),
            address_in(entries.row_values, start),
            operand(buffers.parameters, layer.weights, NR, layer.panel_size),
            layer.panels,
            address_in(entries.row_columns, start),
            stop - start,
            ZERO,
        )


@jit
def first_entry(columns, start, stop, low):
    """Return the index, from start to stop, of the first column that is at least `low`.

    The columns increase. If all are smaller, the result is `stop`.
    """
    while start < stop:
        middle = (start + stop) // 2
        if columns[middle] < low:
            start = middle + 1
        else:
            stop = middle
    return start


@jit
def sort_columns(job, task, low, high):
    """Sort the chunk's entries of the columns low to high by column, then row.

    The entries of column k start at ``column_starts[k + 2 · task]`` and end at the next start. A
    task writes its entries after those of all columns before `low`, so tasks do not overlap.
    """
    entries = entries_of(job)
    columns, starts = entries.row_columns, entries.column_starts
    base = 2 * task  # a task has two more starts than columns
    end = np.int64(0)
    for k in range(low, high + 2):
        starts[base + k] = 0
    for i in range(job.rows):
        row, stop = entries.row_starts[i], entries.row_starts[i + 1]
        p = first_entry(columns, row, stop, low)
        end += p - row
        while p < stop and columns[p] < high:
            starts[base + columns[p] + 2] += 1
            p += 1
    starts[base + low] = starts[base + low + 1] = end
    for k in range(low, high):
        end += starts[base + k + 2]
        starts[base + k + 2] = end
    for i in range(job.rows):
        stop = entries.row_starts[i + 1]
        p = first_entry(columns, entries.row_starts[i], stop, low)
        while p < stop and columns[p] < high:
            k = base + columns[p] + 1
            at = starts[k]
            entries.column_rows[at] = i
            entries.column_values[at] = entries.row_values[p]
            starts[k] = at + 1
            p += 1


@jit
def dense_backward_weights_sparse(c, buffers, job, task, low, high, panel, panels, rate):
    """Compute ``[dw; db] = [x 1]ᵀ dz`` for inputs low to high and `panels` panels from `panel` on.

    Writes the result to `c`. If `rate` is not 0, `c` is the weights, and
    ``c = c - rate · [dw; db]`` for the inputs with entries.
    """
    entries, layer = entries_of(job), layer_of(job, 0)
    dz = operand(buffers.scratch, layer.dz + panel * NR, layer.dz_row, NR)
    for k in range(low, high):
        start, stop = entries.column_starts[2 * task + k], entries.column_starts[2 * task + k + 1]
        if start < stop or rate == 0:
            multiply_compact(
                skip_rows(c, k - low), address_in(entries.column_values, start), dz, panels,
                address_in(entries.column_rows, start), stop - start, rate,
            )  # fmt: skip


def estimate_column_work(x, epoch):
    """Estimate the work for the weights of each group of NR inputs, (groups,) float64.

    Parameters
    ----------
    x : SparseRows or SelectedRows of them
    epoch : Epoch
    """
    x = getattr(x, "source", x)  # assumes that selected rows are like the others
    rows = min(epoch.batch_size, CHUNK_ROWS)
    entries = np.bincount(x.columns // NR, minlength=panels_for(x.width + 1)) * (rows / len(x))
    entries[x.width // NR] += rows  # the bias
    rule = epoch.optimizer
    plain = rule.rule == "sgd" and not (epoch.l2 or epoch.clip_norm or rule.weight_decay)
    return entries + NR * (_SCAN_WORK if plain else _UPDATE_WORK)
