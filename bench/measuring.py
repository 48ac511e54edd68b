"""The number of rounds, the machine, its matrix-product peak, and the work of a network.

Times differ between machines. The share of the peak that a program reaches is comparable.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from fastnn.model.layers import Dense

# The BLAS libraries that NumPy may use read their number of threads from these variables.
_THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

# Two products to start the threads and raise the clock, then the best of at least five.
_SGEMM_PROGRAM = """
import sys, time
import numpy as np
size, budget = int(sys.argv[1]), float(sys.argv[2])
rng = np.random.default_rng(0)
a = rng.random((size, size), np.float32)
b = rng.random((size, size), np.float32)
c = np.empty_like(a)
for _ in range(2):
    np.matmul(a, b, out=c)
times = []
while len(times) < 5 or sum(times) < budget:
    start = time.perf_counter()
    np.matmul(a, b, out=c)
    times.append(time.perf_counter() - start)
print(2 * size**3 / min(times) / 1e9)
"""

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


def sgemm_peak(
    threads: int | None = None,
    *,
    size: int = 2048,
    seconds: float = 1.0,
    base: Mapping[str, str] | None = None,
) -> float:
    """Measure the machine's float32 matrix-product peak in GFLOP/s, in a separate process.

    The idle threads of OpenBLAS spin for tens of milliseconds after each product. In this process
    they would slow down the next measurement. On some processors with AVX-512, OpenBLAS only uses
    AVX2, which is half as fast. A second process therefore requests AVX-512, and the better result
    is returned.

    Parameters
    ----------
    threads : int, optional
        Threads of the product; by default the BLAS library chooses.
    size : int, default 2048
        Rows and columns of the matrices.
    seconds : float, default 1.0
        Time to measure in each process; at least five products are measured.
    base : dict of str to str, optional
        Environment of the processes; by default that of this process.

    Raises
    ------
    RuntimeError
        If a process fails; the message contains its standard error.
    """
    environment = dict(os.environ if base is None else base)
    if threads is not None:
        environment |= dict.fromkeys(_THREAD_VARIABLES, str(threads))
    peak = _measure(environment, size, seconds)
    cpu = Path("/proc/cpuinfo")  # a file of Linux
    if cpu.exists() and "avx512f" in cpu.read_text(errors="replace"):
        peak = max(peak, _measure(environment | {"OPENBLAS_CORETYPE": "SkylakeX"}, size, seconds))
    return peak


def _measure(environment: dict[str, str], size: int, seconds: float) -> float:
    # -P: a file numpy.py in the current directory must not be imported.
    command = [sys.executable, "-P", "-c", _SGEMM_PROGRAM, str(size), str(seconds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the matrix-product measurement failed: {done.stderr.strip()}")
    return float(done.stdout)


def sgemm_limits(threads: int, effort: Effort) -> dict[int, float]:
    """Measure GFLOP/s of a matrix product on one thread and on all."""
    return {n: sgemm_peak(n, seconds=effort.peak_seconds) for n in sorted({1, threads})}


def load_average() -> float | None:
    """Return the number of running processes in the last minute, or None if it is unknown."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def let_blas_rest() -> None:
    """Wait until the threads of a BLAS library stop spinning."""
    time.sleep(BLAS_REST_SECONDS)


def flops_per_sample(layers: Iterable[Dense]) -> int:
    """Count the operations of the matrix products in training on one sample.

    The forward pass, ``dw`` and ``dx`` take one multiply-add, two operations, per weight each; the
    first layer needs no ``dx``. Operations with zeros are counted, too.

    Examples
    --------
    >>> from fastnn.model.layers import dense_layers
    >>> flops_per_sample(dense_layers([784, 128, 64, 10])) * 60_000 / 1e9  # an epoch of MNIST
    27.264
    """
    weights = [layer.inputs * layer.outputs for layer in layers]
    return 2 * (3 * sum(weights) - weights[0])
