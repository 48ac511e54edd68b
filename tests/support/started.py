"""Fail tests that start a process or compile the kernels anew, and lack the marker `process`."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system"}
STARTS |= {"fastnn.start"}
FONTS = {"fc-list", "system_profiler"}  # Matplotlib asks them where its own cache is empty
REGIONS = {"rows_region", "weights_region"}  # most of a compilation
running = ""  # the test, if it has no marker


@contextmanager
def unmarked(test: str) -> Iterator[None]:
    """Name the test that runs and has no marker; empty if it has one."""
    global running
    running = test
    try:
        yield
    finally:
        running = ""


def refuse(what: str) -> None:
    if running:
        pytest.fail(f"{what}, and has no marker `process`: {running}")


def watch_processes() -> None:
    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in STARTS and (not arguments or arguments[0] not in FONTS):
            refuse(f"starts a process ({event})")

    def announced_start(process: BaseProcess) -> None:
        sys.audit("fastnn.start", type(process).__name__)  # Python itself has no event for it
        start(process)

    start = BaseProcess.start
    BaseProcess.start = announced_start  # type: ignore[method-assign]
    sys.addaudithook(watch)


def watch_compilations() -> None:
    """Import Numba, once its environment is set, and watch it compile.

    What goes to the cache of all tests is compiled by whichever of them comes first.
    """
    from numba import config
    from numba.core import caching, event

    class Watch(event.Listener):
        def on_start(self, event: Any) -> None:
            if event.data["qualname"] not in REGIONS:
                return
            cached = caching.IndexDataCacheFile.__module__ == "fastnn.kernels.jit.cache"
            if not cached or os.environ["NUMBA_CACHE_DIR"] != config.CACHE_DIR:
                refuse("compiles the kernels anew")

        def on_end(self, event: Any) -> None:
            """Do nothing; Numba wants it."""

    event.register("numba:run_pass", Watch())
