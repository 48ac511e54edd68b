"""The Numba engine: it fills the job, and calls the compiled loop over chunks.

`regions` holds what is compiled; `workspace` the job and the buffers. Twin of `reference.step`.
"""

import ctypes
import math
import time
from collections.abc import Sequence
from threading import Lock

import numpy as np

from fastnn.batches import CHUNK_ROWS, Epoch, Progress
from fastnn.kernels import _jit, _threads
from fastnn.kernels._gemm import UNITS
from fastnn.kernels._jit import Driver, Region
from fastnn.kernels.layout import Layout
from fastnn.kernels.regions import rows_region, run, weights_region
from fastnn.kernels.workspace import (
    EVALUATE,
    KEEP_GRADIENT,
    PREDICT,
    SGD,
    TRAIN,
    Job,
    Workspace,
    address,
)
from fastnn.kernels.zeros import worth_skipping
from fastnn.layers import Dense, Parameters

DECISIVE_ROWS = 64  # fewer say too little of how many zeros there are: as with the last ones
# Multiply-adds of a training step, by which a second thread begins to pay: measured at 2 to 3
# million in all, for networks of 20 to 784 inputs on two cores.
WORK_OF_A_TASK = 1_300_000
CALL_ROWS = 2048  # rows that a call evaluates before Python looks around for Ctrl-C

_rows, _weights, _run = Region(rows_region), Region(weights_region), Driver(run)


def compile_kernels() -> tuple[float, bool]:
    """Have all kernels ready; return the seconds it took, and whether any had to be compiled."""
    start = time.perf_counter()
    _threads.preload_tbb()
    functions = (*UNITS, _rows, _weights, _run)
    for function in functions:
        function.compile()
    cached = all(function.from_cache for function in functions)
    return time.perf_counter() - start, not cached


def kernels_are_cached() -> bool:
    """Return whether the kernels are ready, here or in the cache."""
    return _run.ready or _jit.is_cached()


class NumbaEngine:
    """The engine in compiled kernels. `fastnn.engine.Engine` says what each method does.

    Methods may be called from several Python threads: one works while the others wait.
    """

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
        self._buffers = Workspace(self._layout, CHUNK_ROWS, self.threads, input_scale)
        self._lock = Lock()  # there is one job and one workspace
        self.skip_zeros: bool | None = None  # None: where the data have enough of them
        self._worth_skipping: dict[tuple[int, int], bool] = {}
        self._skipped_last = False
        self._threads_wanted = threads
        self._weights = sum(layer.inputs * layer.outputs for layer in layers)

    def get_parameters(self) -> Parameters:
        """Return a copy of the parameters."""
        with self._lock:
            return self._layout.read(self._buffers.parameters)

    def set_parameters(self, parameters: Parameters) -> None:
        """Replace the parameters by a copy of these."""
        with self._lock:
            self._layout.write(self._buffers.parameters, parameters)
            self._layout.write_transposed(self._buffers.transposed, parameters)

    def run_chunk(self, epoch: Epoch, progress: Progress, budget_rows: int) -> Progress:
        """Train on at least `budget_rows` further rows, or to the end of the epoch."""
        rows = len(epoch.order)
        with self._lock:
            job = self._prepare(TRAIN, epoch.x, epoch.labels, epoch.order)
            job.rule, job.learning_rate = SGD, epoch.learning_rate
            job.batch_size = epoch.batch_size
            return self._run(progress, min(rows, progress.position + budget_rows))

    def loss_and_grad(self, x: np.ndarray, labels: np.ndarray) -> tuple[float, Parameters]:
        """Return the mean loss over these rows as one batch, and its gradient."""
        rows = len(x)
        with self._lock:
            self._prepare(TRAIN, x, labels).rule = KEEP_GRADIENT
            loss_sum = self._run(Progress(), rows).loss_sum
            return loss_sum / rows, self._layout.read(self._buffers.gradients)

    def evaluate(self, x: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """Return the mean loss and the accuracy over these rows."""
        with self._lock:
            self._prepare(EVALUATE, x, labels)
            done = self._pass_over(len(x))
        return done.loss_sum / len(x), done.correct / len(x)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return class probabilities (rows, O) float32."""
        probs = np.empty((len(x), self._layout.layers[-1].outputs), np.float32)
        with self._lock:
            self._prepare(PREDICT, x).out = address(probs)
            self._pass_over(len(x))
        return probs

    def _prepare(
        self,
        mode: int,
        x: np.ndarray,
        labels: np.ndarray | None = None,
        order: np.ndarray | None = None,
    ) -> Job:
        """Tell the job what to do with which data, taken as one batch."""
        job = self._buffers.job
        job.mode, job.x, job.x_is_bytes = mode, address(x), x.itemsize == 1
        job.skip_zeros = self._skips_zeros(x)
        job.data_rows = job.n = job.batch_size = len(x)
        job.row_bytes = x.itemsize * x.shape[1]
        job.labels = 0 if labels is None else address(labels)
        job.order = 0 if order is None else address(order)
        return job

    def _pass_over(self, rows: int) -> Progress:
        """Run forward over all rows as they come, in calls short enough for Ctrl-C."""
        progress = Progress()
        while progress.position < rows and math.isfinite(progress.loss_sum):
            progress = self._run(progress, min(rows, progress.position + CALL_ROWS))
        return progress

    def _skips_zeros(self, x: np.ndarray) -> bool:
        """Decide whether to look for zeros in these features; the result has the same bits."""
        if self.skip_zeros is not None:
            return self.skip_zeros
        if len(x) < DECISIVE_ROWS:
            return self._skipped_last
        key = address(x), x.nbytes
        if key not in self._worth_skipping:
            if len(self._worth_skipping) > 8:
                self._worth_skipping.clear()
            self._worth_skipping[key] = worth_skipping(x)
        self._skipped_last = self._worth_skipping[key]
        return self._skipped_last

    def _tasks(self, job: Job) -> int:
        """Return into how many tasks to part a region: few where there is little to do."""
        if self._threads_wanted is not None:
            return self.threads
        rows = min(job.batch_size, job.stop - job.position, CHUNK_ROWS)
        work = self._weights * rows * (3 if job.mode == TRAIN else 1)
        return max(1, min(self.threads, work // WORK_OF_A_TASK))

    def _run(self, progress: Progress, stop: int) -> Progress:
        """Call the compiled loop once, from where the progress stands to a position."""
        job = self._buffers.job
        job.position, job.loss_sum, job.correct = progress
        job.stop = stop
        with _threads.parallel(self._tasks(job)) as job.tasks:
            _run(_rows.address, _weights.address, ctypes.addressof(job))
        return Progress(job.position, job.loss_sum, job.correct)
