"""What the benchmarks share: an option, the data, the machine's peak, the tables at the end."""

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
    """Add --quick; pytest only accepts it if bench/ or a file in it is on the command line."""
    parser.addoption("--quick", action="store_true", help="fewer rounds: does it still run?")


def pytest_configure(config: pytest.Config) -> None:
    """Create the object that collects the results."""
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
    """Return the number of rounds; a median to compare needs at least 7."""
    if pytestconfig.getoption("--quick"):
        return Effort(rounds=3, warmup_rounds=1, process_rounds=1, peak_seconds=0.3)
    return Effort(rounds=15, warmup_rounds=3, process_rounds=7, peak_seconds=1.0)


@pytest.fixture(scope="session")
def results(pytestconfig: pytest.Config) -> Results:
    """Return the object that collects the results for the tables."""
    return pytestconfig.stash[RESULTS]


@pytest.fixture(scope="session")
def data(results: Results) -> Dataset:
    """Return MNIST or an imitation."""
    data = find_or_imitate()
    results.data = data
    return data


@pytest.fixture(scope="session")
def machine(effort: Effort, results: Results) -> Iterator[Machine]:
    """Return the machine, and measure its matrix-product peak before and after all cases.

    It is measured in separate processes, with one thread and with all. The better of two
    measurements counts, because other load on the machine can only lower it.
    """
    load = load_average()
    threads = get_engine("numba", LAYERS, input_scale=1.0).threads or 1
    before = sgemm_limits(threads, effort)
    yield Machine(cpu_name(), threads, load)
    let_blas_rest()
    after = sgemm_limits(threads, effort)
    results.add_limits({n: max(before[n], after[n]) for n in before})
