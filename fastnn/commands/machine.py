"""The machine of a measurement: its processor's name and its matrix-product peak.

Times differ between machines. The share of the peak that a program reaches is comparable.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

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


def sgemm_peak(threads: int | None = None, *, size: int = 2048, seconds: float = 1.0) -> float:
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

    Raises
    ------
    RuntimeError
        If a process fails; the message contains its standard error.
    """
    environment = dict(os.environ)
    if threads is not None:
        environment |= dict.fromkeys(_THREAD_VARIABLES, str(threads))
    peak = _measure(environment, size, seconds)
    if "avx512f" in _cpu_field("flags"):
        peak = max(peak, _measure(environment | {"OPENBLAS_CORETYPE": "SkylakeX"}, size, seconds))
    return peak


def _measure(environment: dict[str, str], size: int, seconds: float) -> float:
    # -P: a file numpy.py in the current directory must not be imported.
    command = [sys.executable, "-P", "-c", _SGEMM_PROGRAM, str(size), str(seconds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the matrix-product measurement failed: {done.stderr.strip()}")
    return float(done.stdout)


def cpu_name() -> str:
    """Return the name of the processor, or at least its architecture."""
    name = _cpu_field("model name")
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True).stdout
    name = name or platform.processor()
    return " ".join(name.split()) or platform.machine() or "unknown processor"


def _cpu_field(name: str) -> str:
    """Return a field of the first processor in Linux's /proc/cpuinfo, or an empty text."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2] for line in lines if line.startswith(name)), "")


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
