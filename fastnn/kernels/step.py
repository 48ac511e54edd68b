"""The Numba engine: it fills the job, and calls the compiled loop over chunks.

`regions` holds what is compiled; `workspace` the job and the buffers. Twin of `reference.step`.
"""

import math
import time
from collections.abc import Sequence
from threading import Lock

import numpy as np

from fastnn.batches import CHUNK_ROWS, Epoch, Progress
from fastnn.kernels import _jit, _threads
from fastnn.kernels._jit import Driver, Region
from fastnn.kernels.layout import Layout
from fastnn.kernels.regions import rows_region, run, weights_region
from fastnn.kernels.workspace import EVALUATE, KEEP_GRADIENT, PREDICT, SGD, TRAIN, Workspace
from fastnn.kernels.zeros import worth_skipping
from fastnn.layers import Dense, Parameters

DECISIVE_ROWS = 64  # fewer say too little about how many zeros there are
CALL_ROWS = 2048  # rows that a call evaluates before Python looks around for Ctrl-C

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
            self._set(mode=TRAIN, rule=SGD, n=rows, batch_size=epoch.batch_size)
            self._set(learning_rate=epoch.learning_rate, order=epoch.order.ctypes.data)
            self._set_data(epoch.x, epoch.labels)
            return self._run(progress, min(rows, progress.position + budget_rows))

    def loss_and_grad(self, x: np.ndarray, labels: np.ndarray) -> tuple[float, Parameters]:
        """Return the mean loss over these rows as one batch, and its gradient."""
        rows = len(x)
        with self._lock:
            self._set(mode=TRAIN, rule=KEEP_GRADIENT, n=rows, batch_size=rows, order=0)
            self._set_data(x, labels)
            loss_sum = self._run(Progress(), rows).loss_sum
            buffers = self._buffers
            gradients = buffers.gradients if rows <= CHUNK_ROWS else buffers.totals
            return loss_sum / rows, self._layout.read(gradients)

    def evaluate(self, x: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """Return the mean loss and the accuracy over these rows."""
        with self._lock:
            self._set_data(x, labels)
            done = self._pass_over(len(x), EVALUATE)
        return done.loss_sum / len(x), done.correct / len(x)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return class probabilities (rows, O) float32."""
        probs = np.empty((len(x), self._layout.layers[-1].outputs), np.float32)
        with self._lock:
            self._set(out=probs.ctypes.data)
            self._set_data(x, None)
            self._pass_over(len(x), PREDICT)
        return probs

    def _pass_over(self, rows: int, mode: int) -> Progress:
        """Run forward over all rows as they come, in calls short enough for Ctrl-C."""
        self._set(mode=mode, n=rows, batch_size=rows, order=0)
        progress = Progress()
        while progress.position < rows and math.isfinite(progress.loss_sum):
            progress = self._run(progress, min(rows, progress.position + CALL_ROWS))
        return progress

    def _set_data(self, x: np.ndarray, labels: np.ndarray | None) -> None:
        self._set(
            x=x.ctypes.data,
            x_is_bytes=x.dtype == np.uint8,
            skip_zeros=self._skips_zeros(x),
            labels=0 if labels is None else labels.ctypes.data,
            data_rows=len(x),
            row_bytes=x.itemsize * x.shape[1],
        )

    def _skips_zeros(self, x: np.ndarray) -> bool:
        """Decide whether to look for zeros in these features; the result has the same bits."""
        if self.skip_zeros is not None:
            return self.skip_zeros
        if len(x) < DECISIVE_ROWS:  # as with the features seen last
            return next(reversed(self._worth_skipping.values()), False)
        key = x.ctypes.data, x.nbytes
        if key not in self._worth_skipping:
            if len(self._worth_skipping) > 8:
                self._worth_skipping.clear()
            self._worth_skipping[key] = worth_skipping(x)
        return self._worth_skipping[key]

    def _set(self, **fields: int | float) -> None:
        for name, value in fields.items():
            self._buffers.job[name] = value

    def _run(self, progress: Progress, stop: int) -> Progress:
        """Call the compiled loop once, from where the progress stands to a position."""
        position, loss_sum, correct = progress
        self._set(position=position, loss_sum=loss_sum, correct=correct, stop=stop)
        with _threads.parallel(self.threads) as tasks:
            self._set(tasks=tasks)
            _run(_rows.address, _weights.address, self._buffers.job.ctypes.data)
        job = self._buffers.job[0]
        return Progress(int(job["position"]), float(job["loss_sum"]), int(job["correct"]))
