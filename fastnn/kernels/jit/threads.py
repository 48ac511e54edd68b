"""The threads that run the kernels: their library and their number.

Of Numba's three threading layers only TBB survives forks and supports several Python threads at
once. GNU OpenMP kills a forked child at its first parallel region. Numba's workqueue aborts the
process if two threads enter it, and takes a hundred times as long to start a region. So TBB is used
if it is installed, and otherwise Numba's choice, with locks and checks that make it safe.
"""

import ctypes
import math
import os
import platform
import sys
import threading
from contextlib import nullcontext, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from itertools import starmap
from pathlib import Path

import numba
from numba import config
from numba.np import ufunc

from fastnn.kernels.jit.cache import warn_once
from fastnn.system.control_groups import control_groups
from fastnn.system.forks import setup_lock

# The library in TBB's wheels. For other systems there are none, and Numba uses a different layer.
_TBB = {("Linux", "x86_64"): "libtbb.so.12", ("Windows", "AMD64"): "tbb12.dll"}
_LAYERS = ("default", "tbb", "omp", "workqueue", "safe", "threadsafe", "forksafe")

_workqueue_lock = threading.Lock()
_starting_thread: int | None = None  # the Python thread that started the layer, if known
_used_by_others = False  # whether other Python threads have used it
_child_has_threads = True  # whether the child of the current fork can start threads
_serial = False  # true in a forked child that cannot start threads


@cache
def prepare_threads() -> None:
    """Start Numba's threads safely, before compiling would start them.

    Whenever Numba is asked for the number of threads, it takes a lock that is shared with forked
    children: a child that is killed while it holds the lock would block all others. Creating the
    lock would also fix the start method of `multiprocessing`. `setup_lock` replaces it.
    """
    global _starting_thread
    ufunc.parallel._backend_init_process_lock = nullcontext()
    if not (config.DISABLE_JIT or _started()):
        _check_layer()
        tbb = _preload_tbb()
        _starting_thread = threading.get_ident()
        _start_layer()
        _warn_fallback(tbb)


def _chosen_layer() -> str:
    return str(config.THREADING_LAYER).lower()


def _check_layer() -> None:
    """Raise a ValueError if NUMBA_THREADING_LAYER names no layer of Numba."""
    if _chosen_layer() not in _LAYERS:
        raise ValueError(
            f"NUMBA_THREADING_LAYER must be one of {', '.join(_LAYERS)}; got "
            f"{config.THREADING_LAYER!r}"
        )


def _start_layer() -> None:
    """Start Numba's threads, or raise a ValueError if the chosen layer is missing."""
    try:
        numba.get_num_threads()
    except ValueError as error:
        why = " ".join(str(error).split())
        raise ValueError(f"NUMBA_THREADING_LAYER={config.THREADING_LAYER}: {why}") from None


def _warn_fallback(tbb: Path | None) -> None:
    """Warn if Numba uses a different layer because TBB is missing, and the user can install it."""
    layer = numba.threading_layer()
    chosen = _chosen_layer() != "default" or os.environ.get("NUMBA_THREADING_LAYER_PRIORITY")
    library = _TBB.get((platform.system(), platform.machine()))
    if layer == "tbb" or chosen or library is None:
        return
    why, cure = "TBB is not installed", "pip install tbb"
    if tbb is not None:
        why, cure = f"TBB cannot be loaded from {tbb}", "reinstall tbb"
    elif getattr(sys, "frozen", False):
        why, cure = "TBB is not in this program", f"build it with {library}"
    warn_once(
        f"{why}, so Numba's threads run on {layer} instead. If other processes are busy, training "
        f"can take many times as long, and forked processes have one thread: {cure}, or set "
        f"NUMBA_THREADING_LAYER={layer} to keep {layer} without this warning"
    )


def _preload_tbb() -> Path | None:
    """Load TBB from its wheel; return the path of the library, or None if it is not installed.

    Numba opens the library by its name, which works only if it is loaded already.
    """
    name = _TBB.get((platform.system(), platform.machine()))
    if name is None or _chosen_layer() not in ("default", "tbb", "safe", "threadsafe"):
        return None
    with suppress(PackageNotFoundError):
        for file in files("tbb") or ():
            if file.name == name:
                path = Path(str(file.locate())).resolve()
                with suppress(OSError):  # Numba then uses a different layer
                    ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
                return path
    return None


def start_threads() -> str:
    """Start Numba's threads; return the name of their layer."""
    if config.DISABLE_JIT:
        return "none"
    with setup_lock:
        if not _serial:
            prepare_threads()
            numba.get_num_threads()  # restarts them after a fork, if necessary
        return numba.threading_layer()


def _started() -> bool:
    try:
        numba.threading_layer()
    except ValueError:
        return False
    return True


def usable_threads() -> int:
    """Return the number of threads that this process may use.

    This is NUMBA_NUM_THREADS, if it is set; otherwise the number of cores that the process may run
    on, limited by the quotas of its control groups and by OMP_NUM_THREADS.
    """
    if os.environ.get("NUMBA_NUM_THREADS", "").strip().isdecimal():
        return config.NUMBA_NUM_THREADS
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    asked = int(first) if first.isdecimal() and int(first) > 0 else sys.maxsize
    return max(1, min(cores, _granted_cores(), asked, config.NUMBA_NUM_THREADS))


def _granted_cores() -> int:
    """Return the smallest quota of all control groups in cores, rounded up; or sys.maxsize."""
    return min(starmap(_cores_in, control_groups("cpu")), default=sys.maxsize)


def _cores_in(directory: Path, version: int) -> int:
    try:
        if version == 2:
            quota, period = (directory / "cpu.max").read_text().split()
        else:
            quota = (directory / "cpu.cfs_quota_us").read_text()
            period = (directory / "cpu.cfs_period_us").read_text()
        return max(1, math.ceil(int(quota) / int(period))) if int(quota) > 0 else sys.maxsize
    except (OSError, ValueError, ArithmeticError):  # no quota ("max"), or no valid one
        return sys.maxsize


class parallel:  # noqa: N801  (used like a function)
    """Context that sets the number of Numba's threads for this Python thread.

    It returns the number of tasks to run: `threads`, or 1 in a forked child that cannot start
    threads. A single task runs in this thread, without Numba's threads. This is a class, because a
    context manager of `contextlib` takes longer than a small prediction.
    """

    def __init__(self, threads: int) -> None:
        self._threads = 1 if _serial else threads
        self._guard: threading.Lock | None = None

    def __enter__(self) -> int:
        global _used_by_others
        if self._threads > 1 and not config.DISABLE_JIT:
            if threading.get_ident() != _starting_thread:
                _used_by_others = True
            if numba.threading_layer() == "workqueue":
                self._guard = _workqueue_lock
                self._guard.acquire()
            self._before = numba.get_num_threads()
            numba.set_num_threads(min(self._threads, config.NUMBA_NUM_THREADS))
        return self._threads

    def __exit__(self, *error: object) -> None:
        if self._threads > 1 and not config.DISABLE_JIT:
            numba.set_num_threads(self._before)
            if self._guard is not None:
                self._guard.release()


def _before_fork() -> None:
    """Determine whether the child can start threads.

    TBB can start them if the forking thread has started TBB and no other thread has used it. OpenMP
    would end the child, and workqueue is slow.
    """
    global _child_has_threads
    with setup_lock:  # so that no other thread starts them meanwhile
        if _started():
            only_user = threading.get_ident() == _starting_thread and not _used_by_others
            _child_has_threads = only_user and numba.threading_layer() == "tbb"


def _after_fork_in_child() -> None:
    global _workqueue_lock, _serial
    _workqueue_lock = threading.Lock()
    _serial = _serial or not _child_has_threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
