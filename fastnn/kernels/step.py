"""The Numba engine: it fills the job, and calls the compiled loop over chunks.

`regions` holds what is compiled; `workspace` the job and the buffers. Twin of `reference.step`.
"""

import ctypes
import sys
import time
from collections.abc import Sequence
from threading import Lock

import numpy as np

from fastnn.batches import CHUNK_ROWS, Epoch, Progress
from fastnn.inputs import check_finite
from fastnn.kernels import _jit, _threads
from fastnn.kernels._gemm import UNITS
from fastnn.kernels._jit import Driver, Region
from fastnn.kernels.layout import Layout
from fastnn.kernels.regions import rows_region, run, weights_region
from fastnn.kernels.workspace import (
    ALWAYS,
    BY_BLOCK,
    EVALUATE,
    KEEP_GRADIENT,
    NEVER,
    PREDICT,
    SGD,
    TRAIN,
    Job,
    Workspace,
    address,
)
from fastnn.kernels.zeros import worth_skipping
from fastnn.layers import Dense, Parameters

DECISIVE_ROWS = 64  # fewer say too little of how many zeros there are
# Multiply-adds of a step by which a further thread begins to pay: measured at 2 to 3 million in
# all, for networks of 20 to 784 inputs on two cores. Forward alone it is more, for the threads
# have mostly gone to sleep between two predictions, and zeros may save half of it.
WORK_OF_A_TASK, FORWARD_WORK_OF_A_TASK = 1_300_000, 2_500_000
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
        # Its own job for what only goes forward: most of it stays as it is from call to call.
        self._forward_job = Job.from_buffer_copy(self._buffers.job)
        self._forward_job.batch_size = sys.maxsize
        self._lock = Lock()  # there is one workspace
        self.skip_zeros: bool | None = None  # None: where the data have enough of them
        self._worth_skipping: dict[tuple[int, int], int] = {}
        self._threads_wanted = threads
        self._outputs = layers[-1].outputs
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
        stop = min(len(epoch.order), progress.position + budget_rows)
        with self._lock:
            job = self._training_job(epoch.x, epoch.labels, address(epoch.order))
            job.rule, job.learning_rate = SGD, epoch.learning_rate
            job.batch_size = epoch.batch_size
            return self._train(job, progress, stop)

    def loss_and_grad(self, x: np.ndarray, labels: np.ndarray) -> tuple[float, Parameters]:
        """Return the mean loss over these rows as one batch, and its gradient."""
        with self._lock:
            job = self._training_job(x, labels, order=0)
            job.rule, job.batch_size = KEEP_GRADIENT, len(x)
            loss_sum = self._train(job, Progress(), len(x)).loss_sum
            return loss_sum / len(x), self._layout.read(self._buffers.gradients)

    def evaluate(self, x: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """Return the mean loss and the accuracy over these rows."""
        with self._lock:
            job = self._forward_job
            job.mode, job.labels = EVALUATE, address(labels)
            job.loss_sum, job.correct = 0.0, 0
            self._pass_over(x)
            return job.loss_sum / len(x), job.correct / len(x)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return class probabilities (rows, O) float32."""
        probs = np.empty((len(x), self._outputs), np.float32)
        with self._lock:
            job = self._forward_job
            job.mode, job.out, job.finite = PREDICT, address(probs), True
            self._pass_over(x)
            if not job.finite:
                check_finite(x, "x")
        return probs

    def _training_job(self, x: np.ndarray, labels: np.ndarray, order: int) -> Job:
        """Tell the job which data to train on; the address of an order of 0 is as they come."""
        job = self._buffers.job
        job.mode, job.skip_zeros = TRAIN, self._skips_zeros(x)
        job.x, job.x_is_bytes = address(x), x.itemsize == 1
        job.data_rows = job.n = len(x)
        job.labels, job.order = address(labels), order
        return job

    def _train(self, job: Job, progress: Progress, stop: int) -> Progress:
        """Call the compiled loop once, from where the progress stands to a position."""
        job.position, job.loss_sum, job.correct = progress
        job.stop = stop
        rows = min(job.batch_size, stop - progress.position, CHUNK_ROWS)
        self._run(job, 3 * self._weights * rows // WORK_OF_A_TASK)
        return Progress(job.position, job.loss_sum, job.correct)

    def _pass_over(self, x: np.ndarray) -> None:
        """Run forward over all rows as they come, in calls short enough for Ctrl-C."""
        job, rows = self._forward_job, len(x)
        job.x, job.x_is_bytes = address(x), x.itemsize == 1
        job.data_rows = job.n = rows
        job.skip_zeros = BY_BLOCK if self.skip_zeros is None else int(self.skip_zeros)
        for start in range(0, rows, CALL_ROWS):
            job.position, job.stop = start, min(rows, start + CALL_ROWS)
            work = self._weights * min(rows - start, CHUNK_ROWS)
            self._run(job, work // FORWARD_WORK_OF_A_TASK)

    def _run(self, job: Job, tasks_that_pay: int) -> None:
        """Call the compiled loop; where the user chose no number of threads, with few enough."""
        tasks = self.threads
        if self._threads_wanted is None:
            tasks = max(1, min(tasks, tasks_that_pay))
        if tasks == 1:
            job.tasks = 1
            _run(_rows.address, _weights.address, ctypes.addressof(job))
        else:
            with _threads.parallel(tasks) as job.tasks:
                _run(_rows.address, _weights.address, ctypes.addressof(job))

    def _skips_zeros(self, x: np.ndarray) -> int:
        """Decide whether to look for zeros in these features; the result has the same bits."""
        if self.skip_zeros is not None:
            return int(self.skip_zeros)
        if len(x) < DECISIVE_ROWS:
            return NEVER
        key = address(x), x.nbytes
        if key not in self._worth_skipping:
            if len(self._worth_skipping) > 8:
                self._worth_skipping.clear()
            self._worth_skipping[key] = ALWAYS if worth_skipping(x) else NEVER
        return self._worth_skipping[key]
