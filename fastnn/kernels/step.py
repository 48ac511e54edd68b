"""The Numba engine: a training step as two parallel regions.

::

    NumbaEngine.run_chunk            Python: fills the job, calls the driver once
      run                            compiled loop over chunks; for each chunk
        ├─ rows_region, per task     a share of the chunk's rows: gather, forward, loss, deltas
        └─ weights_region, per task  a share of every layer's inputs: dw, update, transpose

A task touches only its rows in the first region and only its weights in the second, so nothing
is locked, and nothing is added in an order that depends on the number of tasks. Twin of
`reference.step`.
"""

import math
import time
from collections.abc import Sequence

import numpy as np
from numba import carray, prange

from fastnn import batches
from fastnn.batches import CHUNK_ROWS, Epoch, Progress
from fastnn.kernels import _jit, _threads
from fastnn.kernels._jit import Driver, Region, jit
from fastnn.kernels._simd import (
    NR,
    TILE_PANELS,
    call_region,
    flush_denormals,
    pointer_at,
    restore_denormals,
)
from fastnn.kernels.activations import ONE, relu_backward, relu_forward
from fastnn.kernels.dense import (
    dense_backward_input,
    dense_backward_weights,
    dense_forward,
    transpose,
)
from fastnn.kernels.layout import Layout
from fastnn.kernels.losses import softmax, softmax_cross_entropy, softmax_cross_entropy_backward
from fastnn.kernels.updates import accumulate, sgd_update
from fastnn.kernels.workspace import (
    EVALUATE,
    KEEP_GRADIENT,
    PREDICT,
    SGD,
    TRAIN,
    Workspace,
    floats,
    job_at,
    views,
)
from fastnn.layers import Dense, Parameters

ROW_BLOCK = 64  # rows that go through all layers together: their activations stay in the cache
CALL_ROWS = 2048  # rows that a call evaluates before Python looks around for Ctrl-C
ROW_UNIT = 8  # rows are dealt out to tasks in eights, whole register tiles

next_chunk = jit(batches.next_chunk)


@jit
def share(count, unit, task, tasks):
    """Return where a task's share of `count` things starts and stops, in whole units."""
    units = (count + unit - 1) // unit
    return units * task // tasks * unit, min(count, units * (task + 1) // tasks * unit)


# ---- rows: forward, loss, deltas ------------------------------------------------------------


@jit
def gather(buffers, job, first, rows):
    """Copy the block's features, scaled, into the first `a` with its ones; copy its labels."""
    layer = buffers.layers[0]
    inputs = layer.inputs
    for i in range(first, first + rows):
        source = source_row(job, job.start + i)
        at = layer.a + i * layer.a_row
        a = buffers.workspace[at : at + inputs + 1]
        if job.x_is_bytes:
            x = carray(pointer_at(job.x + source * inputs), inputs, np.uint8)
            for k in range(inputs):
                a[k] = np.float32(x[k]) * job.input_scale
        else:
            x = floats(job.x + 4 * source * inputs, inputs)
            for k in range(inputs):
                a[k] = x[k] * job.input_scale
        a[inputs] = ONE
        if job.mode != PREDICT:
            buffers.labels[i] = carray(pointer_at(job.labels), job.data_rows, np.int32)[source]


@jit
def source_row(job, position):
    """Return the data's row that a position of the epoch visits."""
    if job.order == 0:
        return position
    return carray(pointer_at(job.order), job.n, np.int64)[position]


@jit
def forward(buffers, first, rows):
    """Run a block of rows through all layers; the logits end up in the last `z`."""
    last = len(buffers.layers) - 1
    for i in range(last + 1):
        layer = buffers.layers[i]
        dense_forward(buffers.workspace, buffers.parameters, layer, first, rows)
        if layer.relu:
            at = layer.z + first * layer.z_row
            relu_forward(buffers.workspace, at, layer.z_row, rows, layer.outputs)


@jit
def backward(buffers, first, rows):
    """Bring the last layer's `dz` back through all layers but the first."""
    for i in range(len(buffers.layers) - 1, 0, -1):
        layer, before = buffers.layers[i], buffers.layers[i - 1]
        dense_backward_input(buffers.workspace, buffers.transposed, layer, before, first, rows)
        relu_backward(
            buffers.workspace,
            before.dz + first * before.dz_row,
            before.dz_row,
            layer.a + first * layer.a_row,
            layer.a_row,
            rows,
            layer.transposed_panels,
        )


@jit
def write_probabilities(buffers, job, first, rows):
    """Turn a block's logits into probabilities, and copy them to the job's `out`."""
    layer = buffers.layers[len(buffers.layers) - 1]
    out = floats(job.out, job.n * layer.outputs)
    for i in range(rows):
        at = layer.z + (first + i) * layer.z_row
        z = buffers.workspace[at : at + layer.panels * NR]
        softmax(z, layer.outputs)
        target = (job.start + first + i) * layer.outputs
        for j in range(layer.outputs):
            out[target + j] = z[j]


@jit
def rows_block(buffers, job, first, rows):
    """Do all that the job asks of a block of rows, counted from the chunk's start."""
    gather(buffers, job, first, rows)
    forward(buffers, first, rows)
    if job.mode == PREDICT:
        write_probabilities(buffers, job, first, rows)
        return
    last = buffers.layers[len(buffers.layers) - 1]
    softmax_cross_entropy(
        buffers.losses, buffers.hits, buffers.workspace, last, buffers.labels, first, rows
    )
    if job.mode == TRAIN:
        softmax_cross_entropy_backward(
            buffers.workspace, last, buffers.labels, first, rows, np.float32(job.batch_rows)
        )
        backward(buffers, first, rows)


def rows_region(task, address):
    """Region 1: a task's share of the chunk's rows, block by block."""
    job = job_at(address)
    buffers = views(job)
    state = flush_denormals()
    start, stop = share(job.rows, ROW_UNIT, task, job.tasks)
    for first in range(start, stop, ROW_BLOCK):
        rows_block(buffers, job, first, min(ROW_BLOCK, stop - first))
    restore_denormals(state)


# ---- weights: gradients, update, transposed copies ------------------------------------------


@jit
def weights_block(buffers, job, layer, low, high, panel, panels):
    """Compute the gradient of inputs low to high in some panels, and update their weights."""
    dense_backward_weights(
        buffers.gradients, buffers.workspace, layer, low, high, panel, panels, job.rows
    )
    several = not (job.first and job.last)
    gradients = buffers.totals if several else buffers.gradients
    count = (high - low) * NR
    for p in range(panel, panel + panels):
        at = layer.weights + p * layer.panel_size + low * NR
        if several:
            accumulate(buffers.totals, buffers.gradients, at, count, job.first)
        if job.last and job.rule == SGD:
            sgd_update(buffers.parameters, gradients, at, count, job.learning_rate)


def weights_region(task, address):
    """Region 2: a task's share of every layer's inputs, over all rows of the chunk."""
    job = job_at(address)
    buffers = views(job)
    state = flush_denormals()
    for i in range(len(buffers.layers)):
        layer = buffers.layers[i]
        low, high = share(layer.inputs + 1, NR, task, job.tasks)
        for panel in range(0, layer.panels, TILE_PANELS):
            panels = min(TILE_PANELS, layer.panels - panel)
            weights_block(buffers, job, layer, low, high, panel, panels)
            if i > 0 and job.last and job.rule != KEEP_GRADIENT:
                for p in range(panel, panel + panels):
                    transpose(buffers.transposed, buffers.parameters, layer, low, high, p)
    restore_denormals(state)


# ---- the loop over chunks -------------------------------------------------------------------


@jit
def open_chunk(job):
    """Cut the next chunk off the epoch, and tell the regions."""
    chunk = next_chunk(job.position, job.n, job.batch_size)
    job.start = chunk.start
    job.rows = chunk.stop - chunk.start
    job.batch_rows = chunk.batch_rows
    job.first = chunk.first
    job.last = chunk.last


@jit
def add_losses(job, buffers):
    """Add the chunk's losses and hits to the running sums; return whether they are finite."""
    loss_sum = 0.0  # float64: sums of a whole epoch
    correct = 0
    for i in range(job.rows):
        loss_sum += buffers.losses[i]
        correct += buffers.hits[i]
    job.loss_sum += loss_sum
    job.correct += correct
    return math.isfinite(job.loss_sum)


def run(rows_address, weights_address, address):
    """Run the job from its position to its stop, chunk by chunk; end early on a bad loss."""
    job = job_at(address)
    buffers = views(job)
    while job.position < job.stop:
        open_chunk(job)
        for phase in range(2 if job.mode == TRAIN else 1):
            region = rows_address if phase == 0 else weights_address
            if job.tasks == 1:
                call_region(region, 0, address)
            else:
                for task in prange(job.tasks):
                    call_region(region, np.int64(task), address)  # prange counts unsigned
            if phase == 0 and job.mode != PREDICT and not add_losses(job, buffers):
                return
        job.position = job.start + job.rows


_rows, _weights, _run = Region(rows_region), Region(weights_region), Driver(run)


def compile_kernels() -> tuple[float, bool]:
    """Have all kernels ready; return the seconds it took, and whether any had to be compiled."""
    start = time.perf_counter()
    _threads.preload_tbb()
    for function in (_rows, _weights, _run):
        function.compile()
    cached = all(function.from_cache for function in (_rows, _weights, _run))
    return time.perf_counter() - start, not cached


def kernels_are_cached() -> bool:
    """Return whether the kernels are ready, here or in the cache."""
    return _run.ready or _jit.is_cached()


class NumbaEngine:
    """The engine in compiled kernels. `fastnn.engine.Engine` says what each method does."""

    name = "numba"

    def __init__(
        self, layers: Sequence[Dense], *, input_scale: float, threads: int | None = None
    ) -> None:
        usable = _threads.usable()
        if threads is not None and not 1 <= threads <= usable:
            raise ValueError(
                f"threads must be from 1 to {usable}, all that this process may use; got {threads}"
            )
        self.threads = threads or usable
        self.compile_seconds, self.compiled = compile_kernels()
        self.threading_layer = _threads.start()
        self._layout = Layout(layers, CHUNK_ROWS)
        self._buffers = Workspace(self._layout, CHUNK_ROWS, input_scale)

    def get_parameters(self) -> Parameters:
        """Return a copy of the parameters."""
        return self._layout.read(self._buffers.parameters)

    def set_parameters(self, parameters: Parameters) -> None:
        """Replace the parameters by a copy of these."""
        self._layout.write(self._buffers.parameters, parameters)
        self._layout.write_transposed(self._buffers.transposed, parameters)

    def run_chunk(self, epoch: Epoch, progress: Progress, budget_rows: int) -> Progress:
        """Train on at least `budget_rows` further rows, or to the end of the epoch."""
        rows = len(epoch.order)
        stop = min(rows, progress.position + budget_rows)
        self._set(mode=TRAIN, rule=SGD, n=rows, batch_size=epoch.batch_size, stop=stop)
        self._set(learning_rate=epoch.learning_rate, order=epoch.order.ctypes.data)
        self._set_data(epoch.x, epoch.labels)
        return self._run(progress)

    def loss_and_grad(self, x: np.ndarray, labels: np.ndarray) -> tuple[float, Parameters]:
        """Return the mean loss over these rows as one batch, and its gradient."""
        rows = len(x)
        self._set(mode=TRAIN, rule=KEEP_GRADIENT, n=rows, batch_size=rows, stop=rows, order=0)
        self._set_data(x, labels)
        loss_sum = self._run(Progress()).loss_sum
        several = rows > CHUNK_ROWS
        gradients = self._buffers.totals if several else self._buffers.gradients
        return loss_sum / rows, self._layout.read(gradients)

    def evaluate(self, x: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """Return the mean loss and the accuracy over these rows."""
        self._set_data(x, labels)
        done = self._pass_over(len(x), EVALUATE)
        return done.loss_sum / len(x), done.correct / len(x)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return class probabilities (rows, O) float32."""
        probs = np.empty((len(x), self._layout.layers[-1].outputs), np.float32)
        self._set(out=probs.ctypes.data)
        self._set_data(x, None)
        self._pass_over(len(x), PREDICT)
        return probs

    def _pass_over(self, rows: int, mode: int) -> Progress:
        """Run forward over all rows as they come, in calls short enough for Ctrl-C."""
        self._set(mode=mode, n=rows, batch_size=rows, order=0)
        progress = Progress()
        while progress.position < rows and math.isfinite(progress.loss_sum):
            self._set(stop=min(rows, progress.position + CALL_ROWS))
            progress = self._run(progress)
        return progress

    def _set(self, **fields: int | float) -> None:
        for name, value in fields.items():
            self._buffers.job[name] = value

    def _set_data(self, x: np.ndarray, labels: np.ndarray | None) -> None:
        self._set(
            x=x.ctypes.data,
            x_is_bytes=x.dtype == np.uint8,
            labels=0 if labels is None else labels.ctypes.data,
            data_rows=len(x),
        )

    def _run(self, progress: Progress) -> Progress:
        """Call the driver once, from where the progress stands to the job's stop."""
        position, loss_sum, correct = progress
        self._set(position=position, loss_sum=loss_sum, correct=correct)
        with _threads.parallel(self.threads) as tasks:
            self._set(tasks=tasks)
            _run(_rows.address, _weights.address, self._buffers.job.ctypes.data)
        job = self._buffers.job[0]
        return Progress(int(job["position"]), float(job["loss_sum"]), int(job["correct"]))
