"""The number of rounds, the machine, its peak, and the pause before a measurement."""

import os
import time
from typing import NamedTuple

from fastnn.commands.machine import sgemm_peak

# OpenBLAS's idle threads spin for tens of milliseconds after a product and slow down the next
# measurement: an epoch of the Numba engine took 230 ms instead of 133.
BLAS_REST_SECONDS = 0.3


class Effort(NamedTuple):
    """Numbers of rounds."""

    rounds: int
    warmup_rounds: int
    process_rounds: int
    peak_seconds: float


class Machine(NamedTuple):
    """The machine of a run; `load` is the number of processes that ran before it."""

    cpu: str
    threads: int
    load: float | None


def sgemm_limits(threads: int, effort: Effort) -> dict[int, float]:
    """Measure GFLOP/s of a matrix product on one thread and on all."""
    return {n: sgemm_peak(n, seconds=effort.peak_seconds) for n in sorted({1, threads})}


def load_average() -> float | None:
    """Return the number of running processes in the last minute, or None if it is unknown."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def let_blas_rest() -> None:
    """Wait until the threads of a BLAS library stop spinning."""
    time.sleep(BLAS_REST_SECONDS)
