"""A training run of one epoch as a user starts it: total seconds and peak memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from epoch_cases import EPOCH_TOLERANCE, Case, Trainer, assert_close
from measuring import Effort, Machine, let_blas_rest
from pytest_benchmark.fixture import BenchmarkFixture
from summary import Results

import fastnn
from fastnn.data.sets import Dataset

PEAK_MEMORY = Path(__file__).with_name("peak_memory.py")
PACKAGE_HOME = Path(fastnn.__file__).parents[1]  # the processes import this fastnn

# Test accuracy to reach on MNIST in one epoch. A full-batch epoch is a single update, from 9.1 % to
# 14.4 % with the initial weights of seed 0.
FLOORS = {128: 0.92, None: 0.14}
LIMITS = {128: {"limit_seconds": 2.0}, None: {"limit_mb": 400}}

Events = dict[str, dict[str, Any]]  # of a log, by name: start, epoch (there is one), result

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs the module resource")


@pytest.fixture(scope="session")
def data_options(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the options to train on the benchmarks' data."""
    if data.name == "mnist":
        return ["--dataset", "mnist", "--data-dir", data.source]
    path = tmp_path_factory.mktemp("data") / "synthetic.npz"
    arrays = {name: getattr(data, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez_compressed(path, **arrays)  # compressed, like MNIST
    return ["--dataset", str(path)]


class ProvenRun(NamedTuple):
    """A command that was checked in its first run, with the peak memory and the log of that run."""

    case: Case
    command: list[str]
    peak_bytes: int
    events: Events


@pytest.fixture(params=FLOORS, ids=["batch-128", "full-batch"])
def proven_run(
    request: pytest.FixtureRequest,
    data: Dataset,
    data_options: list[str],
    machine: Machine,  # built an engine, so that the kernels are in the cache
    tmp_path: Path,
) -> ProvenRun:
    """Return a run whose result is checked, or fail."""
    case, log = Case("numba", request.param), tmp_path / "run.jsonl"
    command = [sys.executable, "-m", "fastnn.train", "--quiet", "--epochs", "1", *data_options]
    command += ["--batch-size", str(case.batch_size or "full"), "--log-json", str(log)]
    peak = int(run([sys.executable, "-I", str(PEAK_MEMORY), *command]))
    events = {event["event"]: event for event in map(json.loads, log.read_text().splitlines())}
    check(events, case, data)
    return ProvenRun(case, command, peak, events)


def test_process(
    proven_run: ProvenRun,
    benchmark: BenchmarkFixture,
    machine: Machine,
    effort: Effort,
    results: Results,
) -> None:
    """Time the whole process: start, imports, data, kernels from the cache, epoch, test."""
    benchmark.group = f"process, {proven_run.events['start']['dataset']}"
    benchmark.extra_info |= conditions(proven_run, machine)
    let_blas_rest()
    rounds = effort.process_rounds
    benchmark.pedantic(run, args=(proven_run.command,), rounds=rounds, warmup_rounds=0)
    if benchmark.stats is not None:  # None with --benchmark-disable
        results.processes.append(benchmark)


def run(command: list[str]) -> str:
    """Run a command; return its output."""
    done = subprocess.run(command, cwd=PACKAGE_HOME, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(events: Events, case: Case, data: Dataset) -> None:
    """Check a run: the reference engine has the same loss, and MNIST is learned."""
    reference = Trainer(Case("numpy", case.batch_size), data)
    reference.reset()
    assert_close([events["epoch"]["loss"]], [reference.epoch()], EPOCH_TOLERANCE)
    if data.name == "mnist":
        assert events["result"]["test_accuracy"] >= FLOORS[case.batch_size]


def conditions(proven_run: ProvenRun, machine: Machine) -> dict[str, Any]:
    """Return the conditions of the figures, and the peak memory."""
    start = proven_run.events["start"]
    names = ("engine", "threads", "threading_layer", "train_rows", "data_source")
    return {name: start[name] for name in names} | {
        "data": start["dataset"],
        "batch": proven_run.case.batch,
        "cpu": machine.cpu,
        "load_before": machine.load,
        "peak_mb": proven_run.peak_bytes / 1e6,
        **LIMITS[proven_run.case.batch_size],
    }
