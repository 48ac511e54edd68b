"""Threading layers, forks, Python threads, and the number of threads."""

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numba
import numpy as np
import pytest
from spawned import fit_in_child

from fastnn import Network, kernels
from fastnn.kernels.jit import cache, threads
from fastnn.system import control_groups

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="needs compiled code")

# Train in this thread, in several Python threads at once, and in a forked child; compare the bits.
PROGRAM = """
import hashlib, os, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from fastnn import Network

rng = np.random.default_rng(0)
x, y = rng.standard_normal((600, 20), dtype=np.float32), rng.integers(0, 3, 600)

def train(_=None):
    net = Network([20, 30, 3])
    net.fit(x, y, epochs=2, threads=2)
    parameters = b"".join(w.tobytes() + b.tobytes() for w, b in net.parameters)
    return net, hashlib.sha256(parameters).hexdigest()

net, alone = train()
print(net.use_engine("numba", threads=2).threading_layer)
with ThreadPoolExecutor(3) as pool:
    assert {digest for _, digest in pool.map(train, range(6))} == {alone}, "Python threads"
if hasattr(os, "fork"):
    child = os.fork()
    if child == 0:
        os._exit(0 if train()[1] == alone else 1)
    assert os.waitpid(child, 0)[1] == 0, "forked child"
print(alone)
"""


def run(layer, program=PROGRAM):
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],  # fork with threads
        env=os.environ | {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def expected():
    """Return the hash of the weights with workqueue, which is always available."""
    process = run("workqueue")
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()[-1]


@pytest.mark.parametrize("layer", ["tbb", "omp", "workqueue"])
@pytest.mark.process
def test_threading_layers_give_the_same_bits(layer, expected):
    process = run(layer)
    if "No threading layer could be loaded" in process.stderr:
        pytest.skip(f"{layer} is not installed")
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    # In between, Numba may print that it could not stop its threads before the fork.
    assert (lines[0], lines[-1]) == (layer, expected)


# Prints the exit codes of forked children: 1 for those that compute on one thread.
FORKS = """
import os, threading
import numpy as np
from fastnn import Network
from fastnn.kernels.jit import threads

def train():
    Network([4, 3, 2]).fit(np.ones((8, 4)), np.arange(8) % 2, epochs=1, threads=2)

def child():
    pid = os.fork()
    if pid == 0:
        train()
        os._exit(int(threads._serial))
    print("serial", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)

def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

child()
train()
child()
in_thread(child)
in_thread(train)
child()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("layer", "serial"), [("tbb", "0011"), ("omp", "0111"), ("workqueue", "0111")]
)
@pytest.mark.process
def test_forked_child_uses_threads_only_if_safe(layer, serial):
    process = run(layer, FORKS)
    if "No threading layer could be loaded" in process.stderr:
        pytest.skip(f"{layer} is not installed")
    assert process.returncode == 0, process.stderr
    lines = [line.split() for line in process.stdout.splitlines()]
    assert "".join(words[1] for words in lines if words[:1] == ["serial"]) == serial


@pytest.mark.process
def test_tbb_is_used_if_installed():
    try:
        version("tbb")
    except PackageNotFoundError:
        pytest.skip("tbb is not installed")
    assert run("default").stdout.split()[0] == "tbb"


@pytest.mark.process
def test_spawned_process_gives_the_same_predictions():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=fit_in_child, args=(queue,))
    process.start()
    got = queue.get(timeout=120)
    process.join()
    fit_in_child(here := multiprocessing.get_context("spawn").SimpleQueue())
    assert got == here.get()


def test_several_python_threads_can_use_one_network(rng):
    """Their calls run one after another, because they share the workspace."""
    x = rng.standard_normal((64, 5)).astype(np.float32)
    net = Network([5, 40, 3])
    expected = net.predict_proba(x)
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(lambda i: (i, net.predict_proba(x[i : i + 8])), [0, 8, 16, 24, 32] * 40)
        for i, got in parts:
            assert (got == expected[i : i + 8]).all()


def test_rejects_invalid_numbers_of_threads(rng):
    limit = threads.usable_threads()
    net = Network([5, 3])
    with pytest.raises(ValueError, match=f"threads must be from 1 to {limit}"):
        net.use_engine("numba", threads=limit + 1)
    for count in (0, -1, 1.5, "2"):
        with pytest.raises(ValueError, match="threads must be a whole number of at least 1"):
            net.use_engine("numba", threads=count)
    assert net.use_engine("numba").threads == limit
    assert net.use_engine("numba", threads=1).threads == 1


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/", {"cpu.max": "max 100000\n"}, sys.maxsize),
        ("0::/", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/", {"cpu.max": "nonsense\n"}, sys.maxsize),
        ("0::/", {}, sys.maxsize),
        ("", {"cpu.max": "50000 100000\n"}, sys.maxsize),
        ("\n::\nx\n0::/\udcff\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/", {"cpu.max": "9" * 400 + " 1\n"}, sys.maxsize),
        ("0::/not/seen/here", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/a/b", {"cpu.max": "800000 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b", {"a/cpu.max": "800000 100000", "a/b/cpu.max": "300000 100000"}, 3),
        ("2:cpu,cpuacct:/a\n0::/", {"cpu/a/cpu.cfs_quota_us": "300000\n",
                                    "cpu/a/cpu.cfs_period_us": "100000\n"}, 3),
        ("2:cpu:/\n0::/", {"cpu/cpu.cfs_quota_us": "-1\n",
                           "cpu/cpu.cfs_period_us": "100000\n"}, sys.maxsize),
    ],
)  # fmt: skip
def test_control_group_quota(tmp_path, monkeypatch, groups, files, cores):
    """The process is limited by the smallest quota of its group and all parent groups."""
    for name, text in {"self/cgroup": groups, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(os.fsencode(text))
    monkeypatch.setattr(control_groups, "PROC", tmp_path)
    monkeypatch.setattr(control_groups, "_ROOT", tmp_path)
    assert threads._granted_cores() == cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
@pytest.mark.process
def test_number_of_threads_follows_the_affinity():
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from fastnn.kernels.jit.threads import usable_threads; print(usable_threads())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_NUM_THREADS"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("setting", "count"),
    [("1", 1), ("2,4", 2), ("9", 3), ("0", 3), ("-1", 3), ("many", 3), ("", 3)],
)
def test_number_of_threads_follows_omp_num_threads(monkeypatch, setting, count):
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_granted_cores", lambda: sys.maxsize)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 3)
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert threads.usable_threads() == count
    for unreadable in ("", "many"):  # Numba ignores it
        monkeypatch.setenv("NUMBA_NUM_THREADS", unreadable)
        assert threads.usable_threads() == count
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    assert threads.usable_threads() == 3


def test_fit_restores_the_users_number_of_numba_threads():
    before = numba.get_num_threads()
    net = Network([5, 3])
    net.fit(np.ones((4, 5), np.float32), [0, 1, 2, 0], epochs=1)
    assert numba.get_num_threads() == before


# ---- invalid settings -----------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many"])
def test_rejects_invalid_numba_num_threads(monkeypatch, text):
    monkeypatch.setenv("NUMBA_NUM_THREADS", text)
    with pytest.raises(ValueError, match=f"^NUMBA_NUM_THREADS must be a .* 1, got '{text}'$"):
        kernels._check_environment()


def test_rejects_unknown_threading_layer(monkeypatch):
    monkeypatch.setattr(numba.config, "THREADING_LAYER", "nonsense")
    with pytest.raises(ValueError, match="^NUMBA_THREADING_LAYER must be one of default, tbb, .*"):
        threads._check_layer()
    monkeypatch.setattr(numba.config, "THREADING_LAYER", "TBB")
    threads._check_layer()


def test_missing_threading_layer_is_reported_in_one_line(monkeypatch):
    def missing():
        raise ValueError("No threading layer could be loaded.\nHINT:\ntry it")

    monkeypatch.setattr(numba.config, "THREADING_LAYER", "tbb")
    monkeypatch.setattr(numba, "get_num_threads", missing)
    with pytest.raises(ValueError, match="^NUMBA_THREADING_LAYER=tbb: No threading .* try it$"):
        threads._start_layer()


@pytest.fixture
def linux(monkeypatch):
    """Simulate Linux on x86-64 with Numba on OpenMP, before any warning."""
    monkeypatch.setattr(threads.platform, "system", lambda: "Linux")
    monkeypatch.setattr(threads.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(numba, "threading_layer", lambda: "omp")
    monkeypatch.setattr(numba.config, "THREADING_LAYER", "default")
    monkeypatch.setattr(cache, "_warnings", set())
    monkeypatch.delenv("NUMBA_THREADING_LAYER_PRIORITY", raising=False)


def test_missing_tbb_is_warned_of_once(linux, monkeypatch, recwarn):
    for tbb, cure in ((None, ": pip install tbb, or"), (Path("lib"), ": reinstall tbb, or")):
        with pytest.warns(RuntimeWarning, match=f"run on omp instead. .*{cure}"):
            threads._warn_fallback(tbb)
        threads._warn_fallback(tbb)
    with monkeypatch.context() as frozen, pytest.warns(RuntimeWarning, match="with libtbb.so.12,"):
        frozen.setattr(sys, "frozen", True, raising=False)
        threads._warn_fallback(None)
    monkeypatch.setattr(cache, "_warnings", set())
    with monkeypatch.context() as chosen:
        chosen.setattr(numba.config, "THREADING_LAYER", "omp")
        threads._warn_fallback(None)
    with monkeypatch.context() as chosen:
        chosen.setenv("NUMBA_THREADING_LAYER_PRIORITY", "omp tbb workqueue")
        threads._warn_fallback(None)
    monkeypatch.setattr(threads.platform, "machine", lambda: "aarch64")  # TBB has no wheels for it
    threads._warn_fallback(None)
    assert not recwarn.list


@pytest.mark.parametrize("system", ["Linux", "Windows"])
def test_tbb_is_found_by_its_metadata(linux, monkeypatch, tmp_path, system):
    """It may be installed in another environment, which this one extends."""
    machine, name = {"Linux": ("x86_64", "libtbb.so.12"), "Windows": ("AMD64", "tbb12.dll")}[system]
    monkeypatch.setattr(threads.platform, "system", lambda: system)
    monkeypatch.setattr(threads.platform, "machine", lambda: machine)
    loaded = []
    monkeypatch.setattr(threads.ctypes, "CDLL", lambda path, mode: loaded.append(path))
    information, library = tmp_path / "site" / "tbb-1.dist-info", tmp_path / "lib" / name
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Name: tbb\nVersion: 1\n")
    (information / "RECORD").write_text(f"../lib/{name}.20,,\n../lib/{name},,\n")
    library.parent.mkdir()
    library.touch()
    monkeypatch.setattr(sys, "path", [str(information.parent)])
    assert threads._preload_tbb() == library.resolve() and loaded == [str(library.resolve())]
    monkeypatch.setattr(sys, "path", [])
    assert threads._preload_tbb() is None
    monkeypatch.setattr(numba.config, "THREADING_LAYER", "omp")
    monkeypatch.setattr(sys, "path", [str(information.parent)])
    assert threads._preload_tbb() is None and len(loaded) == 1
