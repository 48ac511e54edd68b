"""The kernel ladder: the forward product of MNIST's first layer, checked and timed.

The rungs lead from a plain triple loop to fastnn's kernel with one idea each, so that a reader sees
its gain; NumPy's sgemm is measured, too. All use one thread and the same operands.
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
NUMPY_PRODUCTS = 20  # per request, which takes 1 % of the time
LIBRARIES = ("OPENBLAS", "OMP", "MKL", "BLIS", "VECLIB_MAXIMUM")
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in LIBRARIES}

# Environment variables for BLAS, by name; the README explains why OpenBLAS needs them for AVX-512.
SGEMM = {"NumPy's sgemm": {}, "NumPy's sgemm, AVX-512": {"OPENBLAS_CORETYPE": "SkylakeX"}}

# Rounding. A float32 operation is exact up to a factor 1 ± U, and a sum of DEPTH products, added
# in any order and fused or not, is off by at most γ Σ|a||b| with γ = DEPTH·U / (1 - DEPTH·U)
# (Higham, Accuracy and Stability, section 3.1). The bound of tests/support/tolerances.py.
U = 2.0**-24
BOUND = DEPTH * U / (1 - DEPTH * U)

# The best round counts, as for the machine's peak. Rounds are short, but long enough for the timer,
# so that some are free of other load on the machine.
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
    """Return a function that checks a rung and then times it."""

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
    """Check that a rung computes the product; return how many runs take ROUND_SECONDS.

    Raises
    ------
    AssertionError
        If the error of an element is larger than rounding allows.
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
    """Time NumPy's product, with the kernels that BLAS chooses and with those for AVX-512."""
    if SGEMM[name] and LANES != 16:
        pytest.skip("no AVX-512 here")
    with numpy_product(operands, ONE_THREAD | SGEMM[name], tmp_path) as rung:
        climb(name, rung)


@contextmanager
def numpy_product(operands: Operands, environment: dict[str, str], folder: Path) -> Iterator[Ready]:
    """Run a process that multiplies, and end it."""
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
