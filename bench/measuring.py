"""How it is measured: how often, on what, at what limit, after what rest."""

import os
import time
from typing import NamedTuple

from fastnn.commands.machine import sgemm_peak

# OpenBLAS's idle threads spin for tens of milliseconds after a product, and whatever runs next
# shares their cores: an epoch of the Numba engine was seen to take 230 ms instead of 133.
BLAS_REST_SECONDS = 0.3


class Effort(NamedTuple):
    """How often things are measured."""

    rounds: int
    warmup_rounds: int
    process_rounds: int
    peak_seconds: float


class Machine(NamedTuple):
    """What the run is measured on; `load` is how many processes were running before it."""

    cpu: str
    threads: int
    load: float | None


def sgemm_limits(threads: int, effort: Effort) -> dict[int, float]:
    """Measure GFLOP/s of a matrix product on one thread and on all."""
    return {n: sgemm_peak(n, seconds=effort.peak_seconds) for n in sorted({1, threads})}


def load_average() -> float | None:
    """Return how many processes were running in the last minute, where the system tells."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def let_blas_rest() -> None:
    """Wait until the threads of a BLAS library have gone to sleep."""
    time.sleep(BLAS_REST_SECONDS)
