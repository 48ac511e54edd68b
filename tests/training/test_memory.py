"""Memory: needs are checked before anything changes, and failed allocations change nothing."""

import itertools
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
import pytest
from command_line import assert_one_line, posix, run

from fastnn import EarlyStopping, MLPClassifier, Network
from fastnn.data.conversion import as_features
from fastnn.data.features import SelectedRows
from fastnn.engine import check_engine_memory
from fastnn.estimators.fitting import as_sklearn
from fastnn.kernels import engine as numba_engine
from fastnn.model.layers import dense_layers
from fastnn.model.optimizers import OPTIMIZERS
from fastnn.system import control_groups, memory
from fastnn.system.memory import available_memory, check_copy, empty_predictions
from fastnn.training.memory import check_fit_memory
from fastnn.training.plan import Plan

ADAM = Plan(epochs=1, batch_size=128, optimizer=OPTIMIZERS["adam"])


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Replace /proc and the control groups by empty directories, and remove process limits."""
    (tmp_path / "self").mkdir()
    monkeypatch.setattr(memory, "PROC", tmp_path)
    monkeypatch.setattr(control_groups, "PROC", tmp_path)
    monkeypatch.setattr(control_groups, "_ROOT", tmp_path / "groups")
    monkeypatch.setattr(memory, "address_space_left", lambda: float("inf"))
    return tmp_path


def write_files(folder, **sizes):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in sizes.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


# ---- available memory ---------------------------------------------------------------------------


def test_available_memory_is_infinite_if_it_is_unknown(system):
    assert available_memory() == float("inf")


def test_available_memory_includes_swap(system):
    write_files(system, meminfo="MemTotal: 9 kB\nMemAvailable:  500 kB\nSwapFree: 20 kB")
    assert available_memory() == 520 * 1024


def test_outer_control_group_may_have_the_lower_limit(system):
    write_files(system / "self", cgroup="0::/outer/inner")
    write_files(system / "groups" / "outer" / "inner", memory__max="max", memory__current="5")
    write_files(system / "groups" / "outer", memory__max="1000", memory__current="900",
         memory__stat="anon 7\ninactive_file 30")  # fmt: skip
    assert available_memory() == 130  # cached pages of files count as free


def test_reads_control_groups_of_version_1(system):
    write_files(system / "self", cgroup="4:cpu,memory:/not/there\n0::/")
    write_files(system / "groups" / "memory", memory__limit_in_bytes="1000",
         memory__usage_in_bytes="300", memory__stat="total_inactive_file 0")  # fmt: skip
    assert available_memory() == 700


def test_group_above_its_limit_has_no_memory_left(system):
    write_files(system / "self", cgroup="0::/")
    write_files(
        system / "groups", memory__max="10", memory__current="20", memory__stat="inactive_file 0"
    )
    assert available_memory() == 0


@posix
def test_limit_of_address_space_reduces_available_memory(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1 << 50, 1 << 50))
    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc")
    assert 0 < (1 << 50) - memory.address_space_left() < 1 << 46


# ---- needed memory -------------------------------------------------------------------------------


def test_small_needs_are_not_checked(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 0)
    check_engine_memory(dense_layers([784, 128, 64, 10]))
    check_fit_memory(dense_layers([784, 128, 64, 10]), 60_000, ADAM, checkpoints=True)
    check_copy("x", 1_000_000)
    assert empty_predictions(60_000, 10).shape == (60_000, 10)


def test_message_has_the_sizes_and_advice(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 5e6)
    layers = dense_layers([999, 5_000, 10])  # 5,050,010 numbers
    with pytest.raises(MemoryError) as caught:
        check_fit_memory(layers, 1_000_000, ADAM, checkpoints=False)
    assert str(caught.value) == (
        "training needs 118 MB (weights 41, gradients 21, the optimizer's state 41, the order of "
        "the rows 17), and 5 MB are available; narrower layers need less, and so does the "
        "optimizer 'sgd'"
    )
    stopping = replace(ADAM, early_stopping=EarlyStopping())
    with pytest.raises(MemoryError, match=r"\(weights 61, .*, a checkpoint 243, the order"):
        check_fit_memory(layers, 1_000_000, stopping, checkpoints=True)
    with pytest.raises(MemoryError, match="^x needs 40 MB .*; float32 rows in C order are not"):
        as_features(np.broadcast_to(1.0, (1_000_000, 10)), 10)
    with pytest.raises(MemoryError, match="^the network needs 94 MB .* layers need less$"):
        check_engine_memory(layers)
    with pytest.raises(MemoryError, match="^prediction needs 40 MB .*; fewer rows at a time"):
        empty_predictions(1_000_000, 10)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no high-water mark")
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lbfgs", "adam, checkpoints"])
@pytest.mark.process
def test_fit_takes_as_much_memory_as_estimated(engine, optimizer, tmp_path):
    """Compare with the peak of a new process, for batches of one chunk.

    With more chunks, Numba's SGD would need a gradient.
    """
    optimizer, *checkpoints = optimizer.split(", ")
    width = 600 if optimizer == "lbfgs" else 2000  # 14 MB of weights; less for L-BFGS
    program = f"""
import numpy as np
from fastnn import Checkpoint, Network
from fastnn.system import memory
from fastnn.training import memory as of_fits
def resident(mark):
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(mark))
rng = np.random.default_rng(0)
x, y = rng.random((512, 1800), np.float32), np.arange(512) % 2
options = dict(epochs=14, optimizer={optimizer!r}, engine={engine!r}, threads=1)
Network([1800, 8, 2]).fit(x, y, **options)  # imports all modules
if {bool(checkpoints)}:
    Network([1800, 8, 2]).fit(x, y, **options, callbacks=[Checkpoint({str(tmp_path / "small")!r})])
    options |= dict(callbacks=[Checkpoint({str(tmp_path / "large")!r}, every=5)])
net = Network([1800, {width}, 2], activation="tanh")
net.use_engine({engine!r}, threads=1)
estimates = []
memory.check_memory = of_fits.check_memory = lambda name, needs, advice: estimates.append(
    sum(needs.values())
)
open("/proc/self/clear_refs", "w").write("5")
before = resident("VmRSS")
net.fit(x, y, **options)
print(resident("VmHWM") - before, sum(estimates))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    used, estimate = map(int, done.stdout.split())
    assert 0.4 * estimate < used < 1.6 * estimate, (used / 1e6, estimate / 1e6)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="compiles nothing")
def test_refuses_to_compile_without_enough_memory(monkeypatch):
    monkeypatch.setattr(numba_engine, "kernels_are_cached", lambda: False)
    monkeypatch.setattr(memory, "available_memory", lambda: 1e8)
    network = Network([4, 3])
    with pytest.raises(MemoryError, match=r"^compiling needs 294 MB .*; the engine 'numpy' comp"):
        network.use_engine("numba")
    network.use_engine("numpy")


# ---- failed allocations ------------------------------------------------------------------------


@pytest.fixture
def trained(engine):
    x, y = np.eye(5, dtype=np.float32).repeat(4, axis=0), np.arange(20) % 3
    network = Network([5, 7, 3], seed=1)
    network.fit(x, y, epochs=2, optimizer="momentum", engine=engine)
    return network, x, y


def state_of(network):
    arrays = [a for pair in network.parameters for a in pair]
    arrays += [a for slot in network._state for pair in slot for a in pair]
    return [a.tobytes() for a in arrays], network._position, network._rule


def test_refused_fit_changes_nothing(engine, trained, monkeypatch):
    network, x, y = trained
    before = state_of(network)
    monkeypatch.setattr(memory, "_NEGLIGIBLE", 0)
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    for call in (lambda: network.fit(x, y, optimizer="adam", engine=engine),
                 lambda: network.predict(np.zeros((100, 5), np.float32))):  # fmt: skip
        with pytest.raises(MemoryError, match="are available"):
            call()
        assert state_of(network) == before


def failing_at(call, monkeypatch):
    """Make call number `call` of NumPy's allocating functions raise a MemoryError."""
    count = 0

    def wrapped(function):
        def allocate(*arguments, **options):
            nonlocal count
            count += 1
            if count == call:
                raise MemoryError("no memory")
            return function(*arguments, **options)

        return allocate

    for name in ("zeros", "empty"):
        monkeypatch.setattr(np, name, wrapped(getattr(np, name)))


def failures(monkeypatch, action):
    """Run an action until it succeeds; let one more allocation succeed each time.

    Yield the number of the allocation that failed.
    """
    for call in itertools.count(1):
        with monkeypatch.context() as patch:
            failing_at(call, patch)
            try:
                action()
                return
            except MemoryError:
                pass
        yield call


def test_failed_allocation_in_a_new_engine_keeps_the_current_one(engine, trained, monkeypatch):
    network, x, _ = trained
    before, predicted = state_of(network), network.predict_proba(x)
    current = network._engine
    other = "numpy" if engine == "numba" else "numba"
    for failed in failures(monkeypatch, lambda: network.use_engine(other)):  # noqa: B007
        assert network._engine is current and state_of(network) == before
        np.testing.assert_array_equal(network.predict_proba(x), predicted)
    assert failed > 4
    assert network._engine is not current and state_of(network)[0] == before[0]


def test_engine_can_be_created_after_a_failed_allocation(engine, monkeypatch):
    network, x = Network([5, 7, 3], seed=1), np.eye(5, dtype=np.float32)
    for _ in failures(monkeypatch, lambda: network.use_engine(engine)):
        assert network._engine is None
    fresh = Network([5, 7, 3], seed=1)
    fresh.use_engine(engine)
    np.testing.assert_array_equal(network.predict_proba(x), fresh.predict_proba(x))


def test_setting_parameters_allocates_nothing_after_the_first_change(engine, trained, monkeypatch):
    network, *_ = trained
    new = [(w + 1, b - 1) for w, b in network.parameters]
    running = network.use_engine(engine)
    with monkeypatch.context() as patch:
        for name in ("zeros", "empty", "array"):
            patch.setattr(np, name, None)
        running.set_parameters(new)
    for pair, expected in zip(network.parameters, new, strict=True):
        for array, value in zip(pair, expected, strict=True):
            np.testing.assert_array_equal(array, value)


# ---- messages for users -----------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[4, 10**6, 10**6, 3], [2**40, 2**40]], ids=str)
def test_rejects_a_network_that_is_too_large(engine, sizes):
    network = Network(sizes)
    with pytest.raises(MemoryError, match=r"^the network needs [\d,]+ MB .* MB are available"):
        network.use_engine(engine)
    assert network._engine is None and network._parameters is None


def test_estimator_checks_memory_for_copies(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1e6)
    x = np.broadcast_to(np.int64(1), (3_000_000, 2))
    with pytest.raises(MemoryError, match=r"^X needs 48 MB \(a copy 48\)"):
        MLPClassifier(engine="numpy").fit(x, np.zeros(3_000_000, np.int64))
    with pytest.raises(MemoryError, match=r"^scoring needs 64 MB"):
        as_sklearn(SelectedRows(np.broadcast_to(np.float32(1), (16, 10**6)), np.arange(16)))


def test_rejects_an_estimator_that_is_too_large(engine):
    model = MLPClassifier((10**6, 10**6), engine=engine)
    with pytest.raises(MemoryError):
        model.fit(np.eye(3), [0, 1, 2])
    assert not hasattr(model, "classes_")


@pytest.mark.process
def test_command_reports_a_lack_of_memory_in_one_line(engine, folder):
    done = run("--dataset", "../small.npz", "--hidden", "1000000,1000000", "--engine", engine,
               "--log-json", "log", "--save", "net")  # fmt: skip
    assert done.returncode == 1
    assert_one_line(done.stderr)
    assert "error: not enough memory: the network needs 12,012," in done.stderr
    assert list(folder.iterdir()) == []


@posix
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
@pytest.mark.process
def test_command_reports_a_limit_of_address_space_in_one_line(folder):
    program = """
import resource, sys
from fastnn.commands import train
import fastnn.network, fastnn.reference.engine, fastnn.data.sets
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + (300 << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
sys.exit(train.main(sys.argv[1:]))
"""
    argv = ["--dataset", "../small.npz", "--hidden", "6000,6000", "--engine", "numpy"]
    done = subprocess.run([sys.executable, "-c", program, *argv], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert_one_line(done.stderr)
    assert "not enough memory: the network" in done.stderr
