"""An epoch of batch and of mini-batch gradient descent, on both engines, checked and timed."""

from typing import Any

import pytest
from epoch_cases import CASES, LAYERS, Case, Trainer, proven
from measuring import Effort, Machine, flops_per_sample, let_blas_rest
from pytest_benchmark.fixture import BenchmarkFixture
from summary import Results

from fastnn.data.sets import Dataset


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest, machine: Machine) -> Case:
    """Return one of the cases."""
    if request.param.threads == machine.threads:
        pytest.skip("one thread is all that this process may use")
    return request.param


@pytest.fixture
def trainer(case: Case, data: Dataset) -> Trainer:
    """Return a trainer whose results are checked, or fail."""
    return proven(case, data)


def test_epoch(
    case: Case,
    trainer: Trainer,
    benchmark: BenchmarkFixture,
    data: Dataset,
    machine: Machine,
    effort: Effort,
    results: Results,
) -> None:
    """Time training alone, like ``history["seconds"]`` of `Network.fit`."""
    benchmark.group = f"{case.batch}, {data.name}"
    benchmark.extra_info |= conditions(case, trainer, data, machine)
    let_blas_rest()
    benchmark.pedantic(
        trainer.epoch,
        setup=trainer.reset,  # every round does the same work
        rounds=effort.rounds,
        warmup_rounds=effort.warmup_rounds,
    )
    if benchmark.stats is not None:  # None with --benchmark-disable
        benchmark.extra_info |= speed(benchmark.stats.stats.median, trainer)
        results.epochs.append(benchmark)


def conditions(case: Case, trainer: Trainer, data: Dataset, machine: Machine) -> dict[str, Any]:
    """Return the conditions of a time."""
    engine = trainer.engine
    return {
        "data": data.name,
        "data_source": data.source,
        "rows": len(trainer.data.x),
        "batch": case.batch,
        "batch_rows": trainer.batch_rows,
        "updates": -(-len(trainer.data.x) // trainer.batch_rows),
        "engine": ", ".join([engine.name, *case.specials]),
        "threads": engine.threads or machine.threads,
        "threading_layer": engine.threading_layer,
        "cpu": machine.cpu,
        "load_before": machine.load,
    }


def speed(seconds: float, trainer: Trainer) -> dict[str, float]:
    """Return the figures of an epoch's time; operations with zeros count."""
    rate = len(trainer.data.x) / seconds
    return {"samples_per_second": rate, "gflops": rate * flops_per_sample(LAYERS) / 1e9}
