"""The Numba engine: it fills the job, and calls the compiled loop over chunks.

`regions` holds what is compiled; `workspace` the job and the buffers. Twin of `reference.engine`.
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
from fastnn.kernels.gemm import product as _gemm
from fastnn.kernels.jit import cache as _cache
from fastnn.kernels.jit import threads as _threads
from fastnn.kernels.jit.compiling import Driver, Region
from fastnn.kernels.jit.simd import CPU, HAS_FMA
from fastnn.kernels.layers import sparse
from fastnn.kernels.layers.sparse import EntryBuffers, work_of_columns
from fastnn.kernels.layers.zeros import balanced, work_of_groups
from fastnn.kernels.layout import Layout, panels_for
from fastnn.kernels.pointwise import activations, dropout, losses, updates
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

DECISIVE_ROWS = 64  # fewer say too little of how many zeros there are
# Multiply-adds of a step by which a further thread begins to pay: measured at 2 to 3 million in
# all, for networks of 20 to 784 inputs on two cores. Forward alone it is more, for the threads
# have mostly gone to sleep between two predictions, and zeros may save half of it.
WORK_OF_A_TASK, FORWARD_WORK_OF_A_TASK = 1_300_000, 2_500_000
RULES = {"sgd": SGD, "momentum": MOMENTUM, "adam": ADAM}
CALL_ROWS = 2048  # rows that a call takes before Python looks around for Ctrl-C

UNITS = tuple(u for m in (_gemm, activations, dropout, losses, sparse, updates) for u in m.UNITS)
_rows, _weights, _run = Region(rows_region), Region(weights_region), Driver(run)
KERNELS = (*UNITS, _rows, _weights, _run)


def compile_kernels() -> tuple[float, bool]:
    """Have all kernels ready; return the seconds it took, and whether any had to be compiled."""
    start = time.perf_counter()
    if not (kernels_are_cached() or config.DISABLE_JIT):
        check_compiler()
    with setup_lock:
        _threads.prepare()
        for function in KERNELS:
            function.compile()
    cached = all(function.from_cache for function in KERNELS)
    return time.perf_counter() - start, not cached


def kernels_are_cached() -> bool:
    """Return whether the kernels are ready, here or in the cache."""
    return _run.ready or _cache.is_cached()


def fill_cache(root: Path | None, say: Callable[[str], None]) -> None:
    """Put all kernels into the cache, and report where and how."""
    if root is not None:
        _cache.make_shared(root)
    if why := _cache.obstacle():
        raise OSError(why)
    if not _cache.is_cached():
        say("compiling the kernels, which takes some seconds")
    seconds, compiled = compile_kernels()
    directory = _cache.cache_directory()
    files = list(directory.glob("*.kernel"))
    if len(files) < len(KERNELS):
        raise OSError(f"only {len(files)} of {len(KERNELS)} kernels could be kept in {directory}")
    if root is not None:
        _cache.share(directory)
    size = sum(path.stat().st_size for path in files)
    done = "compiled in" if compiled else "were there already, read in"
    say(f"{len(files)} kernels, {size / 1e3:.0f} kB, {done} {seconds:.1f} s: {directory}")
    say(
        f"for processors like this one ({CPU}): another kind compiles them anew, unless "
        "NUMBA_CPU_NAME and NUMBA_CPU_FEATURES are set alike when building and running"
    )


class NumbaEngine:
    """The engine in compiled kernels. `fastnn.engine.Engine` says what each method does.

    Methods may be called from several Python threads: one works while the others wait.
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
        usable = _threads.usable()
        if threads is not None and not 1 <= threads <= usable:
            raise ValueError(
                f"threads must be from 1 to {usable}, all that this process may use; got {threads}"
            )
        self.threads = threads or usable
        self.compile_seconds, self.compiled = compile_kernels()
        self.threading_layer = _threads.start()
        self._layout = Layout(layers, loss, CHUNK_ROWS)
        code = list(LOSSES).index(loss.name)
        self._buffers = Workspace(self._layout, CHUNK_ROWS, self.threads, input_scale, code)
        # Its own job for what only goes forward: most of it stays as it is from call to call.
        self._forward_job = Job.from_buffer_copy(self._buffers.job)
        self._forward_job.batch_size = sys.maxsize
        self._lock = fork_safe_lock()  # there is one workspace
        self.skip_zeros: bool | None = None  # None: where the data have enough of them
        self._measured: Callable[[], Features | None] = lambda: None
        self._work: np.ndarray | None = None
        self._threads_wanted = threads
        self._entries: EntryBuffers | None = None
        self._outputs = layers[-1].outputs
        self._weights = sum(layer.inputs * layer.outputs for layer in layers)
        self._drops = any(layer.dropout > 0 for layer in layers)

    def get_parameters(self) -> Parameters:
        """Return a copy of the parameters."""
        with reject_reentry(self._lock):
            return self._layout.read(self._buffers.parameters)

    def set_parameters(self, parameters: Parameters) -> None:
        """Replace the parameters by a copy of these."""
        with reject_reentry(self._lock):
            self._layout.write(self._buffers.parameters, parameters)
            self._layout.write_transposed(self._buffers.transposed, parameters)

    def get_state(self, slots: int) -> list[Parameters]:
        """Return a copy of so many slots of the optimizer's state."""
        with reject_reentry(self._lock):
            return [self._layout.read(slot) for slot in self._slots()[:slots]]

    def set_state(self, state: list[Parameters]) -> None:
        """Replace the optimizer's state by a copy of this; slots that are not given are zero."""
        with reject_reentry(self._lock):
            for slot, values in zip_longest(self._slots(), state):
                if values is not None:
                    self._layout.write(slot, values)
                elif slot.any():  # memory that no optimizer has touched is never taken
                    slot[:] = 0

    def _slots(self) -> np.ndarray:
        return self._buffers.state.reshape(STATE_SLOTS, -1)

    def run_chunk(self, epoch: Epoch, progress: Progress, budget_rows: int) -> Progress:
        """Train on at least `budget_rows` further rows, or to the end of the epoch."""
        stop = min(len(epoch.order), progress.position + budget_rows)
        with reject_reentry(self._lock):
            job, optimizer = self._training_job(epoch), epoch.optimizer
            job.rule = RULES[optimizer.rule]
            job.momentum, job.nesterov = optimizer.momentum, optimizer.nesterov
            job.beta1, job.rest1 = optimizer.beta1, 1 - optimizer.beta1
            job.beta2, job.rest2 = optimizer.beta2, 1 - optimizer.beta2
            job.eps, job.clip_norm = optimizer.eps, epoch.clip_norm
            job.drops, job.key, job.epoch = self._drops, _signed(epoch.seed), epoch.number
            return self._train(job, self._products(epoch.data.x), progress, stop)

    def loss_and_grad(self, data: Data, *, l2: float = 0.0) -> tuple[float, Parameters]:
        """Return the mean loss over these rows as one batch, and its gradient."""
        rows = len(data.x)
        epoch = Epoch(data, np.arange(rows), rows, 0.0, l2=l2)
        with reject_reentry(self._lock):
            job = self._training_job(epoch)
            job.rule, job.clip_norm, job.drops = KEEP_GRADIENT, 0.0, False
            progress = Progress()
            while progress.position < rows and math.isfinite(progress.loss_sum):
                stop = min(rows, progress.position + CALL_ROWS)
                progress = self._train(job, self._products(data.x), progress, stop)
            loss = progress.loss_sum / epoch.total_weight
            return loss, self._layout.read(self._buffers.gradients)

    def evaluate(self, data: Data) -> tuple[float, float]:
        """Return the mean loss and the accuracy over these rows."""
        with reject_reentry(self._lock):
            job = self._forward_job
            job.mode, job.targets = EVALUATE, address(data.targets)
            job.weights = 0 if data.weights is None else address(data.weights)
            job.loss_sum = job.correct = 0.0
            data.check_not_resized(self._layout.layers[0].inputs)
            self._pass_over(data.x)
            return job.loss_sum / data.total_weight, job.correct / data.total_weight

    def predict(self, x: Features) -> np.ndarray:
        """Return predictions (rows, O) float32."""
        probs = empty_predictions(len(x), self._outputs)
        with reject_reentry(self._lock):
            job = self._forward_job
            job.mode, job.out, job.finite = PREDICT, address(probs), True
            self._pass_over(x)
            if not job.finite:
                check_finite(x, "x")
        return probs

    def _training_job(self, epoch: Epoch) -> Job:
        """Tell the job what to train on, and what each update has of its own."""
        job, data = self._buffers.job, epoch.data
        job.n, job.mode = len(epoch.order), TRAIN
        data.check_not_resized(self._layout.layers[0].inputs, job.n)
        self._point_at(job, data.x)
        self._measure(epoch)
        skips = self._work is not None and not job.x_is_sparse
        job.skip_zeros = ALWAYS if skips else NEVER
        job.targets, job.order = address(data.targets), address(epoch.order)
        job.weights = 0 if data.weights is None else address(data.weights)
        job.batch_size, job.updates = epoch.batch_size, epoch.updates
        job.rates, job.decays = address(epoch.rates), address(epoch.decays)
        job.penalties, job.norms = address(epoch.penalties), address(epoch.norms)
        return job

    def _point_at(self, job: Job, x: Features) -> None:
        """Tell a job where the features are."""
        job.data_rows, job.x_rows, job.ordered, given = len(x), 0, True, x
        if isinstance(x, SelectedRows):
            job.x_rows, x = address(x.rows), x.source
        job.source_rows, job.x_is_sparse = len(x), isinstance(x, SparseRows)
        if isinstance(x, np.ndarray):
            job.x, job.x_is_bytes = address(x), x.itemsize == 1
            return
        job.x, job.x_is_bytes = address(x.values), False
        job.x_starts, job.x_columns = address(x.starts), address(x.columns)
        size = given.max_entries(CHUNK_ROWS) + CHUNK_ROWS  # the biases
        if self._entries is None or self._entries.size < size:
            self._entries = EntryBuffers(size, x.width, self.threads)
        self._entries.tell(job)

    def _train(self, job: Job, products: int, progress: Progress, stop: int) -> Progress:
        """Call the compiled loop once, from where the progress stands to a position."""
        job.position, job.loss_sum, job.correct = progress
        job.stop = stop
        rows = min(job.batch_size, stop - progress.position, CHUNK_ROWS)
        self._run(job, 3 * products * rows // WORK_OF_A_TASK)
        return Progress(job.position, job.loss_sum, job.correct)

    def _pass_over(self, x: Features) -> None:
        """Run forward over all rows as they come, in calls short enough for Ctrl-C."""
        job, rows, products = self._forward_job, len(x), self._products(x)
        self._point_at(job, x)
        job.n = rows
        job.skip_zeros = BY_BLOCK if self.skip_zeros is None else int(self.skip_zeros)
        for start in range(0, rows, CALL_ROWS):
            if start > 0:  # the first rows have just been checked
                check_not_resized(x, self._layout.layers[0].inputs)
            job.position, job.stop = start, min(rows, start + CALL_ROWS)
            work = products * min(rows - start, CHUNK_ROWS)
            self._run(job, work // FORWARD_WORK_OF_A_TASK)

    def _run(self, job: Job, tasks_that_pay: int) -> None:
        """Call the compiled loop; where the user chose no number of threads, with few enough."""
        tasks = self.threads
        if self._threads_wanted is None:
            tasks = max(1, min(tasks, tasks_that_pay))
        if tasks == 1:
            self._call(job, 1)
        else:
            with _threads.parallel(tasks) as allowed:
                self._call(job, allowed)
        if not job.ordered:
            raise DataError(COLUMNS_CHANGED)

    def _call(self, job: Job, tasks: int) -> None:
        job.tasks, job.this = tasks, ctypes.addressof(job)
        if job.mode == TRAIN and (job.x_is_sparse or job.skip_zeros == ALWAYS):
            self._deal_out(tasks)
        _run(_rows.address, _weights.address, job.this)

    def _measure(self, epoch: Epoch) -> None:
        """Find the work of each group of the first layer's inputs; None if zeros are not skipped.

        The work decides which task takes which groups, and does not change the result. It is
        measured again only for another features object. A weak reference recognises the last one:
        it does not keep that alive, and cannot mistake a new object at the same address for it.
        """
        x = epoch.data.x
        if self._measured() is x and self.skip_zeros is None:
            return
        sparse = isinstance(_source_of(x), SparseRows)
        if self.skip_zeros is not None and not sparse:
            groups = panels_for(self._layout.layers[0].inputs + 1)
            self._work, self._measured = np.ones(groups) if self.skip_zeros else None, lambda: None
            return
        if sparse:
            self._work = work_of_columns(x, epoch)
        else:
            self._work = work_of_groups(x) if len(x) >= DECISIVE_ROWS else None
        self._measured = ref(x)

    def _deal_out(self, tasks: int) -> None:
        """Assign the groups of the first layer's inputs to tasks.

        Raises
        ------
        RuntimeError
            If a group is left out or assigned twice: its weights would be trained wrongly.
        """
        assert self._work is not None
        shares = balanced(self._work, tasks)
        ends = 0, panels_for(self._layout.layers[0].inputs + 1)
        if (shares[0], shares[-1]) != ends or (shares[1:] < shares[:-1]).any():
            raise RuntimeError(f"{ends[1]} groups of inputs cannot be dealt out as {shares}")
        self._buffers.shares[: tasks + 1] = shares

    def _products(self, x: Features) -> int:
        """Return the multiply-adds that a row takes on its way forward."""
        x = _source_of(x)
        if isinstance(x, np.ndarray):
            return self._weights
        first = self._layout.layers[0]
        entries = x.starts[-1] // len(x) + 1
        return self._weights - (first.inputs - int(entries)) * first.outputs


def _source_of(x: Features) -> np.ndarray | SparseRows:
    """Return where features lie, whichever rows of them are taken."""
    return x.source if isinstance(x, SelectedRows) else x


def _signed(seed: int) -> int:
    """Return the bits of a seed as the int64 that has them."""
    return seed - 2**64 if seed >= 2**63 else seed
