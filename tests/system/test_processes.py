"""Concurrent fits in threads, processes and callbacks: equal bits or an error, never a hang."""

import os
import subprocess
import sys

import numba
import pytest

from fastnn.system.forks import FitLock

compiled = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="needs compiled code")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
PATIENCE = 120  # seconds; a hang is a failure

# The start of every program: `train` returns a digest of the weights.
START = """
import hashlib, multiprocessing, os, signal, sys, threading, time
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from fastnn import Callback, Network

rng = np.random.default_rng(0)
x, y = rng.standard_normal((600, 20), dtype=np.float32), rng.integers(0, 3, 600)

def digest(net):
    parameters = b"".join(w.tobytes() + b.tobytes() for w, b in net.parameters)
    return hashlib.sha256(parameters).hexdigest()

def train(_=None, engine="numba"):
    net, threads = Network([20, 30, 3]), 2 if engine == "numba" else None
    net.fit(x, y, epochs=2, engine=engine, threads=threads)
    return digest(net)

def forked(work):
    \"\"\"Return the exit status of a forked child that does some work.\"\"\"
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(work())
    return os.waitpid(child, 0)[1]

class Background:
    \"\"\"Train `net` in a thread while the context lasts.\"\"\"

    def __enter__(self):
        self.net, self.over, begun = Network([20, 200, 3]), False, threading.Event()
        outer = self

        class Stop(Callback):
            def on_chunk_end(self, epoch, rows):
                begun.set()

            def on_epoch_end(self, epoch, metrics):
                return outer.over

        how = {"epochs": 10**6, "batch_size": 600, "learning_rate": 1e-6, "threads": 2}
        fit = lambda: self.net.fit(x, y, callbacks=[Stop()], **how)
        self.thread = threading.Thread(target=fit)
        self.thread.start()
        assert begun.wait(60)
        return self.net

    def __exit__(self, *error):
        self.over = True
        self.thread.join(60)
        assert not self.thread.is_alive()

def background_pool(kind):
    from joblib import Parallel, delayed
    return set(Parallel(n_jobs=2, backend=kind)(delayed(train)() for _ in range(3)))

def pool(kind, processes=2):
    with multiprocessing.get_context(kind).Pool(processes) as workers:
        return set(workers.map_async(train, range(3)).get(60))
"""

# All cases for a threading layer in one process: forks before and after the parent has computed and
# during a fit in another thread, joblib's backends, and fits in threads.
MATRIX = """
def fork_cases(rounds):
    early = os.fork() if rounds == 1 else None  # before any computation
    if early == 0:
        signal.alarm(60)
        print(train(), file=open(sys.argv[2], "w"), flush=True)
        os._exit(0)
    expected = train()
    if early is not None:
        assert os.waitpid(early, 0)[1] == 0, "fork before"
        assert open(sys.argv[2]).read().strip() == expected, "bits of the fork before"
    agrees = lambda: int(train() != expected)
    for _ in range(rounds):
        assert forked(agrees) == 0, "fork after"
        with ThreadPoolExecutor(2) as threads:
            assert set(threads.map(train, range(4))) == {expected}, "threads"
            assert threads.submit(forked, agrees).result() == 0, "fork from a thread"
        with Background() as net:
            assert train() == expected, "beside a fit"
            assert forked(agrees) == 0, "fork beside a fit"
            assert forked(lambda: int(not np.isfinite(net.predict_proba(x)).all())) == 0, "same"
            assert pool("fork") == {expected}, "fork pool beside a fit"
        assert pool("fork") == {expected}, "fork pool"
        for kind in ("threading", "multiprocessing"):
            assert background_pool(kind) == {expected}, kind

def start_cases(rounds):
    expected = train()
    for _ in range(rounds):
        for kind in ("spawn", "forkserver"):
            assert pool(kind, 1) == {expected}, kind
        assert background_pool("loky") == {expected}, "loky"

if __name__ == "__main__":
    {"forks": fork_cases, "starts": start_cases}[sys.argv[1]](int(sys.argv[3]))
    print("done")
"""


def run(tmp_path, program, *arguments, patience=PATIENCE, **environment):
    """Run a program, which other processes may import; return the lines that it printed."""
    path = tmp_path / "program.py"
    path.write_text(START + program)
    source = os.path.dirname(os.path.dirname(sys.modules["fastnn"].__file__))
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(path), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": source, "NUMBA_NUM_THREADS": "2"} | environment,
        capture_output=True,
        text=True,
        timeout=patience,
    )
    if "No threading layer could be loaded" in done.stderr:
        pytest.skip("the threading layer is not installed")
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    assert "Error" not in done.stderr
    return done.stdout.splitlines()


layers = pytest.mark.parametrize("layer", ["tbb", "omp", "workqueue"])


@compiled
@forks
@layers
@pytest.mark.process
def test_forks_and_threads_give_equal_bits(tmp_path, layer):
    layer = {"NUMBA_THREADING_LAYER": layer}
    assert run(tmp_path, MATRIX, "forks", tmp_path / "early", 1, **layer)[-1] == "done"


@compiled
@forks
@layers
@pytest.mark.process
def test_new_processes_give_equal_bits(tmp_path, layer):
    layer = {"NUMBA_THREADING_LAYER": layer}
    assert run(tmp_path, MATRIX, "starts", "-", 1, **layer)[-1] == "done"


@pytest.mark.long
@compiled
@forks
@layers
@pytest.mark.parametrize(("cases", "rounds"), [("forks", 50), ("starts", 50)])
def test_equal_bits_in_many_rounds(tmp_path, layer, cases, rounds):
    layer = {"NUMBA_THREADING_LAYER": layer}
    assert run(tmp_path, MATRIX, cases, "-", rounds, patience=3000, **layer)[-1] == "done"


CALLBACK = """
class Reenter(Callback):
    def __init__(self, net):
        self.net = net

    def on_chunk_end(self, epoch, rows):
        self.net.predict(x)
        self.net.evaluate(x, y)

    def on_epoch_end(self, epoch, metrics):
        for forbidden in (
            lambda: self.net.fit(x, y, epochs=1, engine=engine),
            lambda: self.net.use_engine("numpy" if engine == "numba" else "numba"),
        ):
            try:
                forbidden()
            except RuntimeError as error:
                print(error)
            else:
                print("allowed")

for engine in ("numba", "numpy"):
    expected, net = train(engine=engine), Network([20, 30, 3])
    threads = 2 if engine == "numba" else None
    net.fit(x, y, epochs=2, engine=engine, threads=threads, callbacks=[Reenter(net)])
    assert digest(net) == expected, "calls within a fit"
    net.fit(x, y, epochs=1, engine=engine, threads=threads)
"""


@compiled
@pytest.mark.process
def test_a_callback_can_predict_and_evaluate_but_not_train(tmp_path):
    lines = run(tmp_path, CALLBACK)
    assert len(lines) == 8
    assert {line.split(":")[0] for line in lines} == {"the network is being trained"}


BESIDE = """
with Background() as net:
    for attempt in (lambda: net.fit(x, y, epochs=1), lambda: net.use_engine("numba", threads=1)):
        try:
            attempt()
        except RuntimeError as error:
            print(error)
    import copy
    other = copy.deepcopy(net)
    other.fit(x, y, epochs=1)
    if hasattr(os, "fork"):
        def fit():
            try:
                net.fit(x, y, epochs=1)
            except RuntimeError:
                return 0
            return 1
        assert forked(fit) == 0
net.fit(x, y, epochs=1)
# All threads get the engine that the first one makes.
fresh = Network([20, 30, 3])
with ThreadPoolExecutor(4) as threads:
    engines = set(threads.map(lambda _: id(fresh.use_engine("numba")), range(8)))
assert len(engines) == 1
"""


@compiled
@pytest.mark.process
def test_a_network_rejects_a_second_fit(tmp_path):
    first, second = run(tmp_path, BESIDE)
    assert first.startswith("the network is being trained: wait") and first == second


def test_fit_lock_is_released_after_an_error():
    lock = FitLock()
    with pytest.raises(ZeroDivisionError), lock:
        with pytest.raises(RuntimeError, match="is being trained: wait"), lock:
            pass
        raise ZeroDivisionError
    lock.check()


KILLED = """
train()
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        while True:
            train()
    time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    train()
multiprocessing.set_start_method("spawn")  # Numba must not have set it
"""


@compiled
@forks
@layers
@pytest.mark.process
def test_a_killed_child_blocks_no_other_process(tmp_path, layer):
    run(tmp_path, KILLED, NUMBA_THREADING_LAYER=layer)


BLAS = """
import fastnn.training.lbfgs
from threadpoolctl import threadpool_info, threadpool_limits
import scipy.linalg

def blas():
    return [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]

def search(_):
    Network([20, 30, 3]).fit(x, y, epochs=5, optimizer="lbfgs")

for number in (1, 2):
    threadpool_limits(number, user_api="blas")
    before = blas()
    assert before
    train()
    assert blas() == before
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(search, range(6)))
    assert blas() == before, (blas(), before)
    quiet = fastnn.training.lbfgs._single_threaded_blas
    quiet.__enter__()  # two fits, of which the first ends first
    quiet.__enter__()
    quiet.__exit__()
    assert set(blas()) == {1}
    quiet.__exit__()
    assert blas() == before, (blas(), before)
"""


@compiled
@pytest.mark.process
def test_restores_the_threads_of_blas(tmp_path):
    run(tmp_path, BLAS)


LEAKS = """
import gc, resource
from pathlib import Path

def used():
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20

def state():
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

steps, fits = int(sys.argv[1]), int(sys.argv[2])
net = Network([20, 30, 3])
def work(steps, fits):
    net.fit(x, y, epochs=steps // 10, batch_size=60, threads=2, optimizer="adam")
    for _ in range(fits):
        other = Network([20, 30, 3])
        other.fit(x, y, epochs=1, threads=2)
        other.predict(x)
work(steps // 5, fits // 5)
before, counts = used(), state()
work(steps, fits)
assert state() == counts, (state(), counts)
assert used() - before < 16, (used(), before)
"""


@compiled
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
@pytest.mark.parametrize(
    ("steps", "fits"),
    [
        pytest.param(10_000, 1_000, marks=pytest.mark.process),
        pytest.param(200_000, 20_000, marks=pytest.mark.long),
    ],
)
def test_memory_and_descriptors_do_not_grow(tmp_path, steps, fits):
    """The limit of 16 MiB is 1.6 kB a step, or 16 kB a fit."""
    run(tmp_path, LEAKS, steps, fits, patience=1000)
