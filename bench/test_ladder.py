"""The kernel ladder: one forward product of the main job's first layer, proven and then timed.

From the plain triple loop to what fastnn ships, an idea a rung, so that a reader sees what each
is worth; and NumPy's sgemm beside them. All on one thread, on the same operands.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numba
import numpy as np
import pytest
from ladder_rungs import COLUMNS, DEPTH, FLOPS, ROWS, RUNGS, Ready, aligned
from measuring import Effort, Machine, let_blas_rest
from pytest_benchmark.fixture import BenchmarkFixture
from summary import Results

from fastnn.data.sets import Dataset
from fastnn.kernels.jit.simd import LANES
from fastnn.model.initializers import he_normal
from fastnn.model.layers import dense_layers

NUMPY_PRODUCT = Path(__file__).with_name("numpy_product.py")
NUMPY_PRODUCTS = 20  # a question: its way to the other process and back is 1 % of the time
LIBRARIES = ("OPENBLAS", "OMP", "MKL", "BLIS", "VECLIB_MAXIMUM")
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in LIBRARIES}

# By name, what the environment tells BLAS; the README says why OpenBLAS is told about AVX-512.
SGEMM = {"NumPy's sgemm": {}, "NumPy's sgemm, AVX-512": {"OPENBLAS_CORETYPE": "SkylakeX"}}

# Rounding. A float32 operation is exact up to a factor 1 ± U, and a sum of DEPTH products, added
# in any order and fused or not, is off by at most γ Σ|a||b| with γ = DEPTH·U / (1 - DEPTH·U)
# (Higham, Accuracy and Stability, section 3.1). The bound of tests/support/tolerances.py.
U = 2.0**-24
BOUND = DEPTH * U / (1 - DEPTH * U)

# The best round counts, as it does for the machine's limit: many short ones, each long enough for
# the clock, find a stretch that nobody else on the machine has a share in.
ROUND_SECONDS = 0.002
ROUNDS = 10  # times the usual number

Operands = tuple[np.ndarray, np.ndarray]
Climb = Callable[..., None]

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="about compiled code alone")


@pytest.fixture(scope="module")
def operands(data: Dataset) -> Operands:
    """Return samples with a column of ones, and initial weights with biases that are not zero."""
    pixels = data.x_train[:ROWS] * np.float32(data.scale)
    ((w, _),) = he_normal(dense_layers([DEPTH - 1, COLUMNS]), seed=0)
    b = np.linspace(-1, 1, COLUMNS, dtype=np.float32)
    a = np.hstack([pixels, np.ones((ROWS, 1), np.float32)])
    return aligned(a), aligned(np.vstack([w, b]))


@pytest.fixture
def climb(
    operands: Operands,
    benchmark: BenchmarkFixture,
    data: Dataset,
    machine: Machine,
    effort: Effort,
    results: Results,
) -> Climb:
    """Return what proves a rung and then times it."""

    def climb(name: str, rung: Ready, **info: object) -> None:
        iterations = proven(rung, operands)
        benchmark.group = f"ladder, {ROWS} x {DEPTH} x {COLUMNS}, {data.name}"
        benchmark.extra_info |= {"rung": name, "threads": 1, "data": data.name, **info}
        benchmark.extra_info |= {"cpu": machine.cpu, "load_before": machine.load}
        let_blas_rest()
        benchmark.pedantic(
            rung.run,
            rounds=effort.rounds * ROUNDS,
            warmup_rounds=effort.warmup_rounds,
            iterations=iterations,
        )
        if benchmark.stats is not None:  # None with --benchmark-disable
            flops = FLOPS * rung.products
            stats = benchmark.stats.stats
            benchmark.extra_info |= {
                "products": rung.products,
                "gflops": flops / stats.min / 1e9,
                "median_gflops": flops / stats.median / 1e9,
            }
            results.rungs.append(benchmark)

    return climb


def proven(rung: Ready, operands: Operands) -> int:
    """Prove that a rung computes the product; return how many runs take ROUND_SECONDS.

    Raises
    ------
    AssertionError
        If an element is further off the exact one than rounding allows.
    """
    a, b = (operand.astype(np.float64) for operand in operands)
    rung.run()
    beyond = np.abs(rung.c - a @ b) - BOUND * (np.abs(a) @ np.abs(b))
    assert (beyond <= 0).all(), f"off by {np.max(beyond):.1e} more than rounding"  # a NaN is, too
    start = time.perf_counter()
    rung.run()
    return math.ceil(ROUND_SECONDS / (time.perf_counter() - start))


@pytest.mark.parametrize("name", RUNGS)
def test_rung(name: str, operands: Operands, climb: Climb) -> None:
    """Time an idea."""
    climb(name, RUNGS[name](*operands), number=list(RUNGS).index(name))


@pytest.mark.parametrize("name", SGEMM)
def test_sgemm(name: str, operands: Operands, climb: Climb, tmp_path: Path) -> None:
    """Time NumPy's product, on BLAS's own choice of kernels and on those it may have missed."""
    if SGEMM[name] and LANES != 16:
        pytest.skip("no AVX-512 here")
    with numpy_product(operands, ONE_THREAD | SGEMM[name], tmp_path) as rung:
        climb(name, rung)


@contextmanager
def numpy_product(operands: Operands, environment: dict[str, str], folder: Path) -> Iterator[Ready]:
    """Start a process that multiplies, and end it."""
    paths = [folder / f"{name}.npy" for name in "abc"]
    for path, operand in zip(paths, operands, strict=False):
        np.save(path, operand)
    with subprocess.Popen(
        [sys.executable, "-P", str(NUMPY_PRODUCT), *map(str, paths)],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def run() -> None:
            process.stdin.write(f"{NUMPY_PRODUCTS}\n")
            process.stdin.flush()
            assert process.stdout.readline(), "the process has ended"

        assert process.stdout.readline(), "the process has ended"
        yield Ready(run, np.load(paths[2]), NUMPY_PRODUCTS)
        process.stdin.close()
