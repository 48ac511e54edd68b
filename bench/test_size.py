"""Time against size: rows, width, depth and batch are doubled in turn, checked and timed."""

import math
import time

import pytest
from epoch_cases import Trainer
from measuring import Effort, Machine, let_blas_rest
from pytest_benchmark.fixture import BenchmarkFixture
from size_cases import CASES, Size, proven
from summary import Results


@pytest.mark.parametrize(
    ("what", "size"), CASES, ids=[f"{what}-{getattr(size, what)}" for what, size in CASES]
)
def test_size(
    what: str,
    size: Size,
    benchmark: BenchmarkFixture,
    machine: Machine,
    effort: Effort,
    results: Results,
) -> None:
    """Time an epoch of the Numba engine on dense random data."""
    trainer = proven(size)
    benchmark.group = f"doubling {what}"
    benchmark.extra_info |= {
        "doubled": what,
        "size": getattr(size, what),
        **vars(size),
        "flops": size.flops,
        "threads": trainer.engine.threads,
        "cpu": machine.cpu,
        "load_before": machine.load,
    }
    let_blas_rest()
    benchmark.pedantic(
        trainer.epoch,
        setup=trainer.reset,  # every round does the same work
        rounds=enough_rounds(trainer, effort),
        warmup_rounds=effort.warmup_rounds,
    )
    if benchmark.stats is not None:  # None with --benchmark-disable
        benchmark.extra_info["gflops"] = size.flops / benchmark.stats.stats.median / 1e9
        results.sizes.append(benchmark)


def enough_rounds(trainer: Trainer, effort: Effort) -> int:
    """Return the number of rounds; short epochs need more because of other load."""
    start = time.perf_counter()
    trainer.epoch()
    return max(effort.rounds, math.ceil(effort.peak_seconds / (time.perf_counter() - start)))
