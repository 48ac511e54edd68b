"""What the benchmarks share: an option, the data, the machine's limit, the tables at the end."""

from collections.abc import Iterator

import pytest
from epoch_cases import LAYERS
from measuring import Effort, Machine, let_blas_rest, load_average, sgemm_limits
from mnist_like import find_or_imitate
from summary import Results

from fastnn.commands.machine import cpu_name
from fastnn.data.sets import Dataset
from fastnn.engine import get_engine

RESULTS = pytest.StashKey[Results]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --quick, which pytest knows where bench/ or a file in it is on the command line."""
    parser.addoption("--quick", action="store_true", help="fewer rounds: does it still run?")


def pytest_configure(config: pytest.Config) -> None:
    """Make room for the results."""
    config.stash[RESULTS] = Results()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the tables."""
    lines = config.stash[RESULTS].lines()
    if lines:
        terminalreporter.section("fastnn benchmarks")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def effort(pytestconfig: pytest.Config) -> Effort:
    """Return how often to measure; a median that is to be compared needs 7 rounds or more."""
    if pytestconfig.getoption("--quick"):
        return Effort(rounds=3, warmup_rounds=1, process_rounds=1, peak_seconds=0.3)
    return Effort(rounds=15, warmup_rounds=3, process_rounds=7, peak_seconds=1.0)


@pytest.fixture(scope="session")
def results(pytestconfig: pytest.Config) -> Results:
    """Return where a benchmark leaves what the tables show."""
    return pytestconfig.stash[RESULTS]


@pytest.fixture(scope="session")
def data(results: Results) -> Dataset:
    """Return MNIST, or its imitation."""
    data = find_or_imitate()
    results.data = data
    return data


@pytest.fixture(scope="session")
def machine(effort: Effort, results: Results) -> Iterator[Machine]:
    """Return the machine, and measure its matrix-product limit before and after all cases.

    In processes of their own, on one thread and on all. The better of both is the limit: what
    else runs on the machine can only lower it.
    """
    load = load_average()
    threads = get_engine("numba", LAYERS, input_scale=1.0).threads or 1
    before = sgemm_limits(threads, effort)
    yield Machine(cpu_name(), threads, load)
    let_blas_rest()
    after = sgemm_limits(threads, effort)
    results.add_limits({n: max(before[n], after[n]) for n in before})
