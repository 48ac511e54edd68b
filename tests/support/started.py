"""Fail tests without the marker `process` that start a process or compile the kernels."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system"}
STARTS |= {"fastnn.start"}
FONTS = {"fc-list", "system_profiler"}  # Matplotlib runs them to fill its cache
REGIONS = {"rows_region", "weights_region"}  # take most of the compilation
unmarked_test = ""  # the test that is running, if it has no marker


@contextmanager
def unmarked(test: str) -> Iterator[None]:
    """Set the running test without a marker; "" if it has one."""
    global unmarked_test
    unmarked_test = test
    try:
        yield
    finally:
        unmarked_test = ""


def fail_unmarked(action: str) -> None:
    """Fail the running test if it has no marker."""
    if unmarked_test:
        pytest.fail(f"{action}, and has no marker `process`: {unmarked_test}")


def watch_processes() -> None:
    """Fail unmarked tests that start a process."""

    def check(event: str, arguments: tuple[Any, ...]) -> None:
        if event in STARTS and (not arguments or arguments[0] not in FONTS):
            fail_unmarked(f"starts a process ({event})")

    def audited_start(process: BaseProcess) -> None:
        sys.audit("fastnn.start", type(process).__name__)  # Python has no event for it
        start(process)

    start = BaseProcess.start
    BaseProcess.start = audited_start  # type: ignore[method-assign]
    sys.addaudithook(check)


def watch_compilations() -> None:
    """Fail unmarked tests that compile the kernels; the environment of Numba must be set.

    Any test may fill the cache that all tests share.
    """
    from numba import config
    from numba.core import caching, event

    class Listener(event.Listener):
        def on_start(self, event: Any) -> None:
            if event.data["qualname"] not in REGIONS:
                return
            cached = caching.IndexDataCacheFile.__module__ == "fastnn.kernels.jit.cache"
            if not cached or os.environ["NUMBA_CACHE_DIR"] != config.CACHE_DIR:
                fail_unmarked("recompiles the kernels")

        def on_end(self, event: Any) -> None:
            """Do nothing; Numba requires the method."""

    event.register("numba:run_pass", Listener())
