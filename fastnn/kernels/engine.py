"""The Numba engine: it fills in the job and calls the compiled loop over chunks.

`regions` has the compiled loop, `workspace` the job and the buffers. `reference.engine` has the
same methods in NumPy. A group is NR consecutive inputs of the first layer; the last group includes
the bias.
"""

import ctypes
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from weakref import ref

import numba
import numpy as np
from numba import config

from fastnn.data.conversion import check_finite
from fastnn.data.features import Features, SelectedRows, check_not_resized
from fastnn.data.rows import Data
from fastnn.data.sparse import COLUMNS_CHANGED, SparseRows
from fastnn.epoch import CHUNK_ROWS, Epoch, Progress
from fastnn.errors import DataError
from fastnn.kernels.jit import cache
from fastnn.kernels.jit.compiling import UNITS, Driver, Region
from fastnn.kernels.jit.simd import CPU, HAS_FMA
from fastnn.kernels.jit.threads import parallel, prepare_threads, start_threads, usable_threads
from fastnn.kernels.layers.sparse import EntryBuffers, estimate_column_work
from fastnn.kernels.layers.zeros import balance, estimate_group_work
from fastnn.kernels.layout import Layout, panels_for
from fastnn.kernels.regions import rows_region, run
from fastnn.kernels.weights import weights_region
from fastnn.kernels.workspace import (
    ADAM,
    ALWAYS,
    BY_BLOCK,
    EVALUATE,
    KEEP_GRADIENT,
    MOMENTUM,
    NEVER,
    PREDICT,
    SGD,
    STATE_SLOTS,
    TRAIN,
    Job,
    Workspace,
    address,
)
from fastnn.model.layers import Dense, Parameters
from fastnn.model.losses import LOSSES, Loss
from fastnn.system.forks import fork_safe_lock, reject_reentry, setup_lock
from fastnn.system.memory import check_compiler, empty_predictions

MIN_SAMPLE_ROWS = 64  # fewer rows do not show how many features are zero
# Smallest number of multiply-adds for which another task, on another thread, makes a step faster.
# On two cores, two threads were faster from 2 to 3 million multiply-adds in all, for networks of 20
# to 784 inputs. A forward pass needs more, because threads sleep between two predictions, and
# skipping zeros may save half of the work.
WORK_OF_A_TASK, FORWARD_WORK_OF_A_TASK = 1_300_000, 2_500_000
RULES = {"sgd": SGD, "momentum": MOMENTUM, "adam": ADAM}
# Largest number of rows of one call of the compiled loop, except in training, where the caller of
# `run_chunk` chooses it. Python handles Ctrl-C between two calls.
CALL_ROWS = 2048

_rows_region, _weights_region = Region(rows_region), Region(weights_region)
_driver = Driver(run)
KERNELS = (*UNITS, _rows_region, _weights_region, _driver)


def compile_kernels() -> tuple[float, bool]:
    """Compile all kernels, or read them from the cache.

    Return the seconds this took, and whether this call compiled a kernel.
    """
    start, ready = time.perf_counter(), _driver.ready or config.DISABLE_JIT
    if not (kernels_are_cached() or config.DISABLE_JIT):
        check_compiler()
    with setup_lock:
        prepare_threads()
        for function in KERNELS:
            function.compile()
    ready = ready or all(function.from_cache for function in KERNELS)
    return time.perf_counter() - start, not ready


def kernels_are_cached() -> bool:
    """Return whether all kernels are compiled in this process or cached."""
    return _driver.ready or cache.is_cached(len(KERNELS))


def fill_cache(root: Path | None, report: Callable[[str], None]) -> None:
    """Write all kernels to the cache; see `fastnn.engine.fill_cache`."""
    if root is not None:
        cache.make_shared(root)
    if fault := cache.prepare_directory():
        raise OSError(fault)
    if not cache.is_cached(len(KERNELS)):
        report("compiling the kernels, which takes about 10 s")
    seconds, compiled = compile_kernels()
    directory = cache.cache_directory()
    files = list(directory.glob("*.kernel"))
    if len(files) < len(KERNELS):
        raise OSError(f"only {len(files)} of {len(KERNELS)} kernels could be stored in {directory}")
    if root is not None:
        cache.share(directory)
    size = sum(path.stat().st_size for path in files)
    done = "compiled" if compiled else "loaded"
    sizes = f"{len(files)} kernels ({size / 1e3:.0f} kB)"
    report(f"{sizes} in {directory}, {done} in {seconds:.1f} s")
    report(
        f"for this type of processor ({CPU}); a different type compiles its own, unless "
        "NUMBA_CPU_NAME and NUMBA_CPU_FEATURES have the same values for this command and later"
    )


class NumbaEngine:
    """The engine of compiled kernels. `fastnn.engine.Engine` documents the methods.

    Several Python threads may call the methods; one call runs at a time.

    Attributes
    ----------
    skip_zeros : bool or None
        Whether the first layer skips zeros; None: decided from the data.
    """

    name = "numba"
    arithmetic: Mapping[str, str] = {
        "numba": numba.__version__,
        "fused multiply-add": str(HAS_FMA),
    }

    def __init__(
        self,
        layers: Sequence[Dense],
        loss: Loss,
        *,
        input_scale: float,
        threads: int | None = None,
    ) -> None:
        usable = usable_threads()
        if threads is not None and not 1 <= threads <= usable:
            raise ValueError(
                f"threads must be from 1 to {usable}, all that this process may use; got {threads}"
            )
        self.threads = threads or usable
        self.compile_seconds, self.compiled = compile_kernels()
        self.threading_layer = start_threads()
        self._layout = Layout(layers, loss, CHUNK_ROWS)
        code = list(LOSSES).index(loss.name)
        self._buffers = Workspace(self._layout, CHUNK_ROWS, self.threads, input_scale, code)
        # A second job for forward passes, most of whose fields stay the same from call to call.
        self._forward_job = Job.from_buffer_copy(self._buffers.job)
        self._forward_job.batch_size = sys.maxsize
        self._lock = fork_safe_lock()  # all calls share the workspace
        self.skip_zeros: bool | None = None
        # The work of each group of the first layer's inputs, or None if zeros are not skipped; and
        # a weak reference to the features that it was estimated from.
        self._group_work: np.ndarray | None = None
        self._estimated: Callable[[], Features | None] = lambda: None
        self._threads_were_chosen = threads is not None
        self._entries: EntryBuffers | None = None
        self._groups = panels_for(layers[0].inputs + 1)
        self._outputs = layers[-1].outputs
        self._n_weights = sum(layer.inputs * layer.outputs for layer in layers)
        self._has_dropout = any(layer.dropout > 0 for layer in layers)

    def get_parameters(self) -> Parameters:
        """Return a copy of the parameters."""
        with reject_reentry(self._lock):
            return self._layout.read(self._buffers.parameters)

    def set_parameters(self, parameters: Parameters) -> None:
        """Set the parameters; the engine copies them."""
        with reject_reentry(self._lock):
            self._layout.write(self._buffers.parameters, parameters)
            self._layout.write_transposed(self._buffers.transposed, parameters)

    def get_state(self, slots: int) -> list[Parameters]:
        """Return a copy of the optimizer's state."""
        with reject_reentry(self._lock):
            return [self._layout.read(slot) for slot in self._slots()[:slots]]

    def set_state(self, state: list[Parameters]) -> None:
        """Set the optimizer's state; the engine copies it, and zeros the slots that are missing."""
        with reject_reentry(self._lock):
            for slot, values in zip_longest(self._slots(), state):
                if values is not None:
                    self._layout.write(slot, values)
                elif slot.any():  # writing zeros would make the system allocate unused memory
                    slot[:] = 0

    def _slots(self) -> np.ndarray:
        return self._buffers.state.reshape(STATE_SLOTS, -1)

    def run_chunk(self, epoch: Epoch, progress: Progress, min_rows: int) -> Progress:
        """Train on at least `min_rows` more rows, or to the end of the epoch."""
        stop = min(len(epoch.order), progress.position + min_rows)
        with reject_reentry(self._lock):
            job, optimizer = self._prepare_training(epoch), epoch.optimizer
            job.rule = RULES[optimizer.rule]
            job.momentum, job.nesterov = optimizer.momentum, optimizer.nesterov
            job.beta1, job.rest1 = optimizer.beta1, 1 - optimizer.beta1
            job.beta2, job.rest2 = optimizer.beta2, 1 - optimizer.beta2
            job.eps, job.clip_norm = optimizer.eps, epoch.clip_norm
            job.has_dropout = self._has_dropout
            job.seed, job.epoch = epoch.seed, epoch.number  # ctypes keeps the 64 bits of the seed
            return self._train(job, self._row_work(epoch.data.x), progress, stop)

    def loss_and_grad(self, data: Data, *, l2: float = 0.0) -> tuple[float, Parameters]:
        """Return the mean loss of all rows as one batch, and its gradient, without dropout."""
        rows = len(data.x)
        epoch = Epoch(data, np.arange(rows), rows, 0.0, l2=l2)
        with reject_reentry(self._lock):
            job = self._prepare_training(epoch)
            job.rule, job.clip_norm, job.has_dropout = KEEP_GRADIENT, 0.0, False
            progress = Progress()
            while progress.position < rows and math.isfinite(progress.loss_sum):
                stop = min(rows, progress.position + CALL_ROWS)
                progress = self._train(job, self._row_work(data.x), progress, stop)
            loss = progress.loss_sum / epoch.total_weight
            return loss, self._layout.read(self._buffers.gradients)

    def evaluate(self, data: Data) -> tuple[float, float]:
        """Return the mean loss and the accuracy."""
        with reject_reentry(self._lock):
            job = self._forward_job
            job.mode, job.targets = EVALUATE, address(data.targets)
            job.weights = 0 if data.weights is None else address(data.weights)
            job.loss_sum = job.correct = 0.0
            data.check_not_resized(self._layout.layers[0].inputs)
            self._run_forward(data.x)
            return job.loss_sum / data.total_weight, job.correct / data.total_weight

    def predict(self, x: Features) -> np.ndarray:
        """Return predictions (rows, O) float32."""
        predictions = empty_predictions(len(x), self._outputs)
        with reject_reentry(self._lock):
            job = self._forward_job
            job.mode, job.out, job.finite = PREDICT, address(predictions), True
            self._run_forward(x)
            if not job.finite:
                check_finite(x, "x")
        return predictions

    def _prepare_training(self, epoch: Epoch) -> Job:
        """Write the data and the settings of an epoch to the job; return the job."""
        job, data = self._buffers.job, epoch.data
        job.n, job.mode = len(epoch.order), TRAIN
        data.check_not_resized(self._layout.layers[0].inputs, job.n)
        self._set_features(job, data.x)
        self._estimate_work(epoch)
        skips = self._group_work is not None and not job.x_is_sparse
        job.skip_zeros = ALWAYS if skips else NEVER
        job.targets, job.order = address(data.targets), address(epoch.order)
        job.weights = 0 if data.weights is None else address(data.weights)
        job.batch_size, job.updates = epoch.batch_size, epoch.updates
        job.step_sizes, job.decays = address(epoch.step_sizes), address(epoch.decays)
        job.penalties, job.denominators = address(epoch.penalties), address(epoch.denominators)
        return job

    def _set_features(self, job: Job, features: Features) -> None:
        """Write the addresses of features to a job."""
        job.data_rows, job.selection, job.ordered, x = len(features), 0, True, features
        if isinstance(x, SelectedRows):
            job.selection, x = address(x.rows), x.source
        job.feature_rows, job.x_is_sparse = len(x), isinstance(x, SparseRows)
        if isinstance(x, np.ndarray):
            job.x, job.x_is_bytes = address(x), x.itemsize == 1
            return
        job.x, job.x_is_bytes = address(x.values), False
        job.x_starts, job.x_columns = address(x.starts), address(x.columns)
        size = features.max_entries(CHUNK_ROWS) + CHUNK_ROWS  # one more per row, for the bias
        if self._entries is None or self._entries.size < size:
            self._entries = EntryBuffers(size, x.width, self.threads)
        self._entries.set_addresses(job)

    def _train(self, job: Job, work: int, progress: Progress, stop: int) -> Progress:
        """Train from a progress to position `stop`; `work` is `_row_work` of the features."""
        job.position, job.loss_sum, job.correct = progress
        job.stop = stop
        rows = min(job.batch_size, stop - progress.position, CHUNK_ROWS)
        # Three multiply-adds a weight: forward, and for the gradients of the input and the weight.
        self._run(job, 3 * work * rows // WORK_OF_A_TASK)
        return Progress(job.position, job.loss_sum, job.correct)

    def _run_forward(self, x: Features) -> None:
        """Run the job of forward passes over all rows, in calls short enough for Ctrl-C."""
        job, rows, row_work = self._forward_job, len(x), self._row_work(x)
        self._set_features(job, x)
        job.n = rows
        job.skip_zeros = BY_BLOCK if self.skip_zeros is None else int(self.skip_zeros)
        for start in range(0, rows, CALL_ROWS):
            if start > 0:  # the caller has checked them before the first call
                check_not_resized(x, self._layout.layers[0].inputs)
            job.position, job.stop = start, min(rows, start + CALL_ROWS)
            work = row_work * min(rows - start, CHUNK_ROWS)
            self._run(job, work // FORWARD_WORK_OF_A_TASK)

    def _run(self, job: Job, useful_tasks: int) -> None:
        """Run the compiled loop; use fewer threads for little work, unless the user chose them."""
        tasks = self.threads if self._threads_were_chosen else min(self.threads, useful_tasks)
        if tasks <= 1:
            self._call(job, 1)
        else:
            with parallel(tasks) as allowed:
                self._call(job, allowed)
        if not job.ordered:
            raise DataError(COLUMNS_CHANGED)

    def _call(self, job: Job, tasks: int) -> None:
        job.tasks, job.address = tasks, ctypes.addressof(job)
        if job.mode == TRAIN and (job.x_is_sparse or job.skip_zeros == ALWAYS):
            self._assign_groups(tasks)
        _driver(_rows_region.address, _weights_region.address, job.address)

    def _estimate_work(self, epoch: Epoch) -> None:
        """Estimate the work of each group of the first layer's inputs.

        The estimate decides whether zeros are skipped, and which groups each task computes. It
        does not change the result. It is made again only if the features are a different object.
        They are recognised by a weak reference, which does not keep them alive and, unlike an
        address, never matches a new object.
        """
        x = epoch.data.x
        if self._estimated() is x and self.skip_zeros is None:
            return
        if isinstance(_source_of(x), SparseRows):
            self._group_work = estimate_column_work(x, epoch)
        elif self.skip_zeros is None:
            self._group_work = estimate_group_work(x) if len(x) >= MIN_SAMPLE_ROWS else None
        else:
            self._group_work = np.ones(self._groups) if self.skip_zeros else None
        self._estimated = ref(x) if self.skip_zeros is None else lambda: None

    def _assign_groups(self, tasks: int) -> None:
        """Assign the groups of the first layer's inputs to tasks.

        Raises
        ------
        RuntimeError
            If a group would be left out or assigned twice.
        """
        assert self._group_work is not None
        shares = balance(self._group_work, tasks)
        if (shares[0], shares[-1]) != (0, self._groups) or (shares[1:] < shares[:-1]).any():
            raise RuntimeError(f"{self._groups} groups of inputs cannot be assigned as {shares}")
        self._buffers.shares[: tasks + 1] = shares

    def _row_work(self, x: Features) -> int:
        """Return the number of multiply-adds in the forward pass of one row."""
        x = _source_of(x)
        if isinstance(x, np.ndarray):
            return self._n_weights
        first = self._layout.layers[0]
        entries = x.starts[-1] // len(x) + 1
        return self._n_weights - (first.inputs - int(entries)) * first.outputs


def _source_of(x: Features) -> np.ndarray | SparseRows:
    """Return the features that rows were selected from, or the features themselves."""
    return x.source if isinstance(x, SelectedRows) else x
