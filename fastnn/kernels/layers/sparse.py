"""The first layer over sparse features: a chunk's entries, by rows and by columns.

Forward, a row's product runs over its own entries. Backward, an input's gradient runs over the
rows that have an entry in its column, so each task brings the entries of its share of the columns
into their order. An entry is what is not zero; its products are those that a dense chain of
multiply-adds would have, in the same order, and so the bits are.
"""

from typing import NamedTuple

import numpy as np
from numba import types

from fastnn.epoch import CHUNK_ROWS
from fastnn.kernels.gemm.product import multiply_compact
from fastnn.kernels.gemm.tile import down, operand
from fastnn.kernels.jit.compiling import Unit, jit
from fastnn.kernels.jit.philox import keep_bits
from fastnn.kernels.jit.simd import NR, ONE, ZERO, address_in, array_at, record_at
from fastnn.kernels.layout import panels_for
from fastnn.kernels.pointwise.elementary import all_finite
from fastnn.kernels.workspace import JOB, PREDICT, TRAIN, address, aligned_zeros, layer_of
from fastnn.model.randomness import BLOCK, GROUP, LEVELS

# What an input costs an update of all weights, and one of those alone that have a gradient, in
# entries of the chunk.
_DENSE_COST, _LOOK_COST = 4.0, 0.1


class Entries(NamedTuple):
    """A chunk's entries.

    Attributes
    ----------
    row_starts : ndarray (chunk_rows + 1,) int64
        Where each row's begin, the last of which is the bias's, and where the last row's end.
    row_columns, row_values : ndarray, int32 and float32
        In the order of rows, then columns; the values scaled.
    column_starts : ndarray (I + 1 + 2 · tasks,) int64
        Where those of each column begin, as `list_columns` says.
    column_rows, column_values : ndarray, int32 and float32
        In the order of columns, then rows.
    """

    row_starts: np.ndarray
    row_columns: np.ndarray
    row_values: np.ndarray
    column_starts: np.ndarray
    column_rows: np.ndarray
    column_values: np.ndarray


@jit
def entries_of(job):
    """The entries of a job, as arrays."""
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
    """Room for a chunk's entries, biases included, and the word about it to a job."""

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
        self._arrays = arrays  # whose memory it is

    def tell(self, job) -> None:
        """Write the addresses into a job."""
        job.entries_size = self.size
        for name, place in self.addresses.items():
            setattr(job, name, place)


@jit
def source_row(job, position):
    """Return the data's row that a position of the epoch visits."""
    if job.order == 0:
        return position
    return array_at(job.order, job.n, np.int64)[position]


@jit
def feature_row(job, row):
    """Return the row of x that has the features of one of the data's rows."""
    if job.x_rows == 0:
        return row
    return array_at(job.x_rows, job.data_rows, np.int64)[row]


@jit
def place_entries(job):
    """Decide where each row of the chunk has its entries: one more a row, for the bias."""
    starts, entries = array_at(job.x_starts, job.source_rows + 1, np.int64), entries_of(job)
    end = np.int64(0)
    entries.row_starts[0] = end
    for i in range(job.rows):
        source = feature_row(job, source_row(job, job.start + i))
        end += starts[source + 1] - starts[source] + 1
        entries.row_starts[i + 1] = end


@jit
def _columns_rise(columns, at, count, inputs):
    """Return whether `count` columns from ``columns[at]`` increase, from 0 to below `inputs`.

    Python has checked them, but the caller's array may have changed since. This checks the chunk's
    own copy, which nothing else changes.
    """
    rise = True
    for p in range(at + 1, at + count):
        rise &= columns[p - 1] < columns[p]
    return count == 0 or (rise and columns[at] >= 0 and columns[at + count - 1] < inputs)


def gather_entries(job_at, row, source):
    """Copy the entries of one of the data's rows, scaled, to those of a row of the chunk."""
    job = record_at(job_at, 0, JOB)
    entries, layer = entries_of(job), layer_of(job, 0)
    starts = array_at(job.x_starts, job.source_rows + 1, np.int64)
    start, count = starts[source], starts[source + 1] - starts[source]
    columns = array_at(job.x_columns + 4 * start, count, np.int32)
    values = array_at(job.x + 4 * start, count, np.float32)
    if job.mode == PREDICT and not all_finite(job.x + 4 * start, count):
        job.finite = False
    at = entries.row_starts[row]
    for p in range(count):
        entries.row_columns[at + p] = columns[p]
        entries.row_values[at + p] = values[p] * job.input_scale
    if not _columns_rise(entries.row_columns, at, count, layer.inputs):
        job.ordered = False
        for p in range(count):
            entries.row_columns[at + p] = layer.inputs  # a row of weights that exists
    if job.mode == TRAIN and job.drops and layer.keep_level < LEVELS:
        block, bits = np.int64(-1), np.int64(0)
        for p in range(count):
            column = np.int64(entries.row_columns[at + p])
            if column // BLOCK != block:
                block = column // BLOCK
                position = job.start + row
                bits = keep_bits(job.key, block * GROUP, position, job.epoch, 0, layer.keep_level)
            kept = (bits >> (column - block * BLOCK)) & 1
            value = entries.row_values[at + p] * layer.keep_factor
            entries.row_values[at + p] = value if kept else ZERO
    entries.row_columns[at + count] = layer.inputs
    entries.row_values[at + count] = ONE


UNITS = (Unit(gather_entries, *(types.int64,) * 3),)


@jit
def dense_forward_sparse(buffers, job, first, place, rows):
    """``z = [a 1] [w; b]`` for rows of the chunk from `first` on; z (rows, O) at row `place`."""
    entries, layer = entries_of(job), layer_of(job, 0)
    for i in range(rows):
        start, stop = entries.row_starts[first + i], entries.row_starts[first + i + 1]
        multiply_compact(
            operand(buffers.workspace, layer.z + (place + i) * layer.z_row, 0, NR),
            address_in(entries.row_values, start),
            operand(buffers.parameters, layer.weights, NR, layer.panel_size),
            layer.panels,
            address_in(entries.row_columns, start),
            stop - start,
            ZERO,
        )


@jit
def first_entry(columns, start, stop, low):
    """Return the first place from start to stop whose column is at least `low`; increasing."""
    while start < stop:
        middle = (start + stop) // 2
        if columns[middle] < low:
            start = middle + 1
        else:
            stop = middle
    return start


@jit
def list_columns(job, task, low, high):
    """Bring the chunk's entries of the columns low to high into the order of columns, then rows.

    Those of column k are then at the places ``column_starts[k + 2 · task]`` to the one that
    follows. A task writes to what is its own: behind the entries of all columns before `low`.
    """
    entries = entries_of(job)
    columns, starts = entries.row_columns, entries.column_starts
    base = 2 * task  # each task has two starts more than columns
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
            place = starts[k]
            entries.column_rows[place] = i
            entries.column_values[place] = entries.row_values[p]
            starts[k] = place + 1
            p += 1


@jit
def dense_backward_weights_sparse(c, buffers, job, task, low, high, panel, panels):
    """``[dw; db] = [a 1]ᵀ dz`` for inputs low to high and some panels, written to `c`."""
    entries, layer = entries_of(job), layer_of(job, 0)
    dz = operand(buffers.workspace, layer.dz + panel * NR, layer.dz_row, NR)
    for k in range(low, high):
        start = entries.column_starts[2 * task + k]
        multiply_compact(
            down(c, k - low), address_in(entries.column_values, start), dz, panels,
            address_in(entries.column_rows, start),
            entries.column_starts[2 * task + k + 1] - start, ZERO,
        )  # fmt: skip


@jit
def descend_sparse(buffers, job, task, low, high):
    """Step down the gradient of the inputs low to high that have entries; no other has any."""
    entries, layer = entries_of(job), layer_of(job, 0)
    dz = operand(buffers.workspace, layer.dz, layer.dz_row, NR)
    weights = operand(buffers.parameters, layer.weights, NR, layer.panel_size)
    for k in range(low, high):
        start, stop = entries.column_starts[2 * task + k], entries.column_starts[2 * task + k + 1]
        if start < stop:
            multiply_compact(
                down(weights, k), address_in(entries.column_values, start), dz, layer.panels,
                address_in(entries.column_rows, start), stop - start, job.rate,
            )  # fmt: skip


def work_of_columns(x, epoch):
    """Return each group's share of the work of an epoch's weights, (groups,) float64.

    Parameters
    ----------
    x : SparseRows or SelectedRows of them
    epoch : Epoch
    """
    x = getattr(x, "source", x)  # whose rows are much like the chosen ones
    rows = min(epoch.batch_size, CHUNK_ROWS)
    entries = np.bincount(x.columns // NR, minlength=panels_for(x.width + 1)) * (rows / len(x))
    entries[x.width // NR] += rows  # the bias
    rule = epoch.optimizer
    plain = rule.rule == "sgd" and not (epoch.l2 or epoch.clip_norm or rule.weight_decay)
    return entries + NR * (_LOOK_COST if plain else _DENSE_COST)
