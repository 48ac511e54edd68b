"""Which threads run the kernels, and how many.

Numba has three threading layers, and only one suits a library: TBB survives a fork and several
Python threads at once. GNU OpenMP kills a forked child at its first parallel region; Numba's own
workqueue aborts the process when two threads enter, and takes a hundred times as long to start a
region. So: TBB where it is installed, else what Numba finds, made safe.
"""

import ctypes
import errno
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
from numba.np.ufunc import parallel as layers

from fastnn.kernels.jit.cache import tell
from fastnn.system.control_groups import control_groups
from fastnn.system.forks import setup_lock

# The library in TBB's wheels, where there are wheels. Elsewhere Numba uses its other layers.
_TBB = {("Linux", "x86_64"): "libtbb.so.12", ("Windows", "AMD64"): "tbb12.dll"}
_LAYERS = ("default", "tbb", "omp", "workqueue", "safe", "threadsafe", "forksafe")

_one_at_a_time = threading.Lock()
_starter: int | None = None  # the Python thread that started the layer, where we know it
_shared = False  # whether other Python threads have used it
_can_fork = True  # whether the fork that is under way leaves the child its threads
_serial = False  # in a forked child that cannot have threads


@cache
def prepare() -> None:
    """Do what must be done before Numba starts its threads, which compiling does, too.

    Numba has a lock that is shared with forked children, and takes it whenever it is asked for the
    number of threads: a child that is killed meanwhile would stop all of them. To make the lock
    it would also settle how `multiprocessing` starts processes. Here `setup_lock` does its work.
    """
    global _starter
    layers._backend_init_process_lock = nullcontext()
    if not (config.DISABLE_JIT or _started()):
        _check_layer()
        tbb = _preload_tbb()
        _check_room_for(config.NUMBA_NUM_THREADS)
        _starter = threading.get_ident()
        _start_layer()
        _tell_fallback(tbb)


def _layer_wanted() -> str:
    return str(config.THREADING_LAYER).lower()


def _check_layer() -> None:
    """Raise a ValueError if Numba has no layer of the name that was chosen."""
    if _layer_wanted() not in _LAYERS:
        raise ValueError(
            f"NUMBA_THREADING_LAYER must be one of {', '.join(_LAYERS)}; got "
            f"{config.THREADING_LAYER!r}"
        )


def _start_layer() -> None:
    """Start Numba's threads, or raise a ValueError if the layer that was chosen is missing."""
    try:
        numba.get_num_threads()
    except ValueError as error:
        why = " ".join(str(error).split())
        raise ValueError(f"NUMBA_THREADING_LAYER={config.THREADING_LAYER}: {why}") from None


def _tell_fallback(tbb: Path | None) -> None:
    """Warn if Numba has fallen back from TBB to another layer and the user can change that."""
    layer = numba.threading_layer()
    chosen = _layer_wanted() != "default" or os.environ.get("NUMBA_THREADING_LAYER_PRIORITY")
    library = _TBB.get((platform.system(), platform.machine()))
    if layer == "tbb" or chosen or library is None:
        return
    why, cure = "TBB is not installed", "pip install tbb"
    if tbb is not None:
        why, cure = f"TBB cannot be loaded from {tbb}", "reinstall tbb"
    elif getattr(sys, "frozen", False):
        why, cure = "TBB is not in this program", f"build it with {library}"
    tell(
        f"{why}, and Numba's threads run on {layer} instead: beside other busy processes training "
        f"can take many times as long, and forked processes have one thread; {cure}, or set "
        f"NUMBA_THREADING_LAYER={layer} to keep {layer} without this warning"
    )


def _check_room_for(threads: int) -> None:
    """Raise an OSError if so many threads cannot be had: TBB and OpenMP would end the process."""
    done, started = threading.Event(), []
    try:
        for _ in range(threads):
            thread = threading.Thread(target=done.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        text = (
            f"{threads} threads cannot be started: allow more processes or memory, set "
            "NUMBA_NUM_THREADS to fewer, or take the engine 'numpy'"
        )
        raise OSError(errno.EAGAIN, text) from None
    finally:
        done.set()
        for thread in started:
            thread.join()


def _preload_tbb() -> Path | None:
    """Load TBB from its wheel, wherever that is installed; return the library's path or None.

    Numba opens the library by its name, which finds it only if it is loaded already.
    """
    name = _TBB.get((platform.system(), platform.machine()))
    if name is None or _layer_wanted() not in ("default", "tbb", "safe", "threadsafe"):
        return None
    with suppress(PackageNotFoundError):
        for file in files("tbb") or ():
            if file.name == name:
                path = Path(str(file.locate())).resolve()
                with suppress(OSError):  # Numba then finds another layer
                    ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
                return path
    return None


def start() -> str:
    """Start Numba's threads, and return the name of their layer."""
    if config.DISABLE_JIT:
        return "none"
    with setup_lock:
        if not _serial:
            prepare()
            numba.get_num_threads()  # which may restart them after a fork
        return numba.threading_layer()


def _started() -> bool:
    try:
        numba.threading_layer()
    except ValueError:
        return False
    return True


def usable() -> int:
    """How many threads this process may use.

    The cores that it may run on, less where a control group grants less time than that, or
    OMP_NUM_THREADS asks for less, as for every other library of numbers. A user who sets
    NUMBA_NUM_THREADS has decided.
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
    """Whole cores of the tightest control group's quota, rounded up; very many without one."""
    return min(starmap(_cores_in, control_groups("cpu")), default=sys.maxsize)


def _cores_in(folder: Path, version: int) -> int:
    try:
        if version == 2:
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return max(1, math.ceil(int(quota) / int(period))) if int(quota) > 0 else sys.maxsize
    except (OSError, ValueError, ArithmeticError):  # no quota ("max"), or none of this world
        return sys.maxsize


class parallel:  # noqa: N801  (used like a function)
    """Have Numba use so many threads on this Python thread; enter how many tasks to make.

    The number of tasks decides nothing about the result. One task runs here, on no layer at all,
    and this is a class because `contextlib` would cost more than a small prediction.
    """

    def __init__(self, threads: int) -> None:
        self._threads = 1 if _serial else threads
        self._guard: threading.Lock | None = None

    def __enter__(self) -> int:
        global _shared
        if self._threads > 1 and not config.DISABLE_JIT:
            if threading.get_ident() != _starter:
                _shared = True
            if numba.threading_layer() == "workqueue":
                self._guard = _one_at_a_time
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
    """Notice whether the child will have threads.

    TBB starts them anew if the fork comes from the thread that started it, and no other has used
    it, or else may not; OpenMP would end the child, and workqueue's are few and slow.
    """
    global _can_fork
    with setup_lock:  # no other thread is starting them now
        if _started():
            alone = threading.get_ident() == _starter and not _shared
            _can_fork = alone and numba.threading_layer() == "tbb"


def _after_fork_in_child() -> None:
    global _one_at_a_time, _serial
    _one_at_a_time = threading.Lock()
    _serial = _serial or not _can_fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
