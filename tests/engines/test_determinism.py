"""The same bits for any number of threads, instruction set, division of calls and batch."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest

from fastnn import Network
from fastnn.data.rows import Data
from fastnn.engine import get_engine
from fastnn.epoch import Epoch, Progress
from fastnn.kernels.jit.simd import CPU_FEATURES, X86
from fastnn.model.initializers import initial_parameters
from fastnn.model.layers import ACTIVATIONS, dense_layers
from fastnn.model.losses import LOSSES
from fastnn.model.optimizers import OPTIMIZERS
from fastnn.model.randomness import permutation

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="needs compiled code")

# For each number of threads (the first argument), trains networks of odd widths with batches of one
# chunk and of several, and random networks (the second argument is their number) with and without
# skipping zeros; prints a hash of all results.
PROGRAM = """
import hashlib, sys
import numpy as np
from scipy.sparse import csr_array
from fastnn import Network
rng = np.random.default_rng(0)
x = rng.integers(0, 256, (1500, 75), dtype=np.uint8)
y = rng.integers(0, 5, 1500)
one_hot, weights = np.eye(5)[y], rng.uniform(0, 2, 1500)
rows = csr_array(x * (rng.random(x.shape) < 0.1))

def random_network(seed, threads, skip):
    rng = np.random.default_rng(seed)
    widths = rng.integers(1, 150, rng.integers(2, 5)).tolist()
    activation = rng.choice(["relu", "tanh", "logistic", "gelu", "leaky_relu"], len(widths) - 1)
    net = Network([*widths, 4], activation=activation.tolist(), dropout=0.3 * rng.integers(2))
    x = rng.standard_normal((900, widths[0]), dtype=np.float32)
    x[rng.random(x.shape) < rng.random()] = 0
    net.use_engine("numba", threads=threads).skip_zeros = skip
    how = {"optimizer": str(rng.choice(["sgd", "momentum", "adamw"])), "learning_rate": 0.01}
    how |= {"batch_size": int(rng.integers(1, 900)), "l2": 0.1 * rng.integers(2)}
    net.fit(x, rng.integers(0, 4, 900), epochs=1, threads=threads, **how)
    return b"".join(w.tobytes() + b.tobytes() for w, b in net.parameters)

for threads in map(int, sys.argv[1].split(",")):
    digest = hashlib.sha256()
    settings = {"dropout": [0.1, 0.4, 0.2], "input_scale": 1 / 255}
    nets = [
        (x, Network([75, 50, 17, 5], input_scale=1 / 255), y, {}),
        (rows, Network([75, 50, 17, 5], input_scale=1 / 255), y, {}),
        (rows, Network([75, 140, 5], activation="tanh", **settings | {"dropout": 0.2}), y, {}),
        (x, Network([75, 50, 17, 5], activation="tanh", loss="poisson", **settings), one_hot, {}),
        (
            x,
            Network([75, 50, 17, 5], activation=["gelu", "logistic"], loss="logistic", **settings),
            one_hot,
            {"optimizer": "adam", "clip_norm": 0.1, "sample_weight": weights},
        ),
    ]
    for features, net, targets, how in nets:
        for batch_size in (100, 700):
            sizes = {"epochs": 2, "batch_size": batch_size, "threads": threads}
            history = net.fit(features, targets, **sizes, **how)
            for w, b in net.parameters:
                digest.update(w.tobytes() + b.tobytes())
            digest.update(net.predict(features).tobytes())
            digest.update(repr(net.evaluate(features, targets)).encode())
            digest.update(repr(history["loss"]).encode())
    for seed in range(int(sys.argv[2])):
        bits = random_network(seed, threads, True)
        assert bits == random_network(seed, threads, False), f"zeros of random network {seed}"
        digest.update(bits)
    print(threads, digest.hexdigest())
"""


def hashes(threads, networks=6, **environment):
    """Run the program in a process; return the set of the hashes of all numbers of threads."""
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(map(str, threads)), str(networks)],
        env=os.environ | {"NUMBA_NUM_THREADS": str(max(threads))} | environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    lines = dict(line.split() for line in process.stdout.splitlines())
    assert list(lines) == [str(n) for n in threads]
    return set(lines.values())


@pytest.fixture(scope="module")
def native():
    (digest,) = hashes([1])
    return digest


@pytest.mark.process
def test_threads_do_not_change_bits(native):
    assert hashes([1, 2, 3, 4, 8]) == {native}


@pytest.mark.long
def test_threads_do_not_change_bits_of_many_networks(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    cold, cached = (hashes([1, 2, 3, 4, 8], 200, **cache) for _ in range(2))
    assert cold == cached and len(cold) == 1


@pytest.mark.process
def test_cached_kernels_give_the_same_bits(native, tmp_path):
    """Two processes compile at the same time, as in a parallel search."""
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    with ThreadPoolExecutor(2) as threads:
        cold = threads.map(lambda _: hashes([2], **cache), range(2))
        assert [*cold, hashes([2], **cache)] == 3 * [{native}]


# A smaller instruction set needs both variables: the name alone does not change the features.
HASWELL = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+popcnt,+sse,+sse2,+sse4.1,+sse4.2",
}


@pytest.mark.skipif(
    "+avx2" not in CPU_FEATURES or "+fma" not in CPU_FEATURES, reason="needs AVX2 and FMA"
)
@pytest.mark.process
def test_avx2_gives_the_same_bits(native):
    assert hashes([2], **HASWELL) == {native}


@pytest.mark.skipif(not X86, reason="needs x86")
@pytest.mark.process
def test_threads_do_not_change_bits_without_fused_multiply_add():
    baseline = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"}
    assert len(hashes([1, 3], **baseline)) == 1


# ---- within a process -----------------------------------------------------------------------


@pytest.fixture
def data(rng):
    labels = rng.integers(0, 4, 1300)
    return (rng.standard_normal((1300, 9)) + labels[:, None]).astype(np.float32), labels


def digest(net):
    return hashlib.sha256(b"".join(w.tobytes() + b.tobytes() for w, b in net.parameters)).digest()


def test_two_fits_equal_one_long_fit(data, engine):
    one, two = Network([9, 20, 4]), Network([9, 20, 4])
    history = one.fit(*data, epochs=3, engine=engine)
    first = two.fit(*data, epochs=1, engine=engine)
    second = two.fit(*data, epochs=2, engine=engine)
    assert digest(one) == digest(two)
    assert history["loss"] == first["loss"] + second["loss"]


@pytest.mark.parametrize("batch_size", [64, 600, 1300])
def test_division_into_calls_does_not_change_bits(data, engine, batch_size):
    """The size of a call depends on the measured time; weights and losses must not."""
    x, labels = data[0], data[1].astype(np.int32)
    epoch = Epoch(Data(x, labels), permutation(0, 0, len(x)), batch_size, 0.1)
    results = set()
    for budget in (1, 300, 10**9):
        net = Network([9, 20, 4])
        running, progress = net.use_engine(engine), Progress()
        while progress.position < len(x):
            progress = running.run_chunk(epoch, progress, budget)
        parameters = b"".join(w.tobytes() + b.tobytes() for w, b in running.get_parameters())
        results.add((progress, parameters))
    assert len(results) == 1


@pytest.mark.parametrize(("loss", "activation"), [*zip(LOSSES, ACTIVATIONS, strict=True)])
def test_threads_lists_calls_and_old_buffers_do_not_change_bits(rng, loss, activation):
    """With dropout, sample weights, a penalty and clipping."""
    layers = dense_layers([70, 33, 17, 5], activation, [0.1, 0.4, 0.2])
    x = rng.standard_normal((1300, 70), dtype=np.float32)
    x[rng.random(x.shape) < 0.8] = 0
    labels = rng.integers(0, 5, 1300, np.int32)
    targets = labels if loss == "cross_entropy" else np.eye(5, dtype=np.float32)[labels]
    data = Data(x, targets, rng.uniform(0, 2, 1300).astype(np.float32))
    epoch = Epoch(
        data, rng.permutation(1300), 600, 0.01, OPTIMIZERS["adamw"],
        l2=0.01, clip_norm=0.3, seed=5, number=3,
    )  # fmt: skip
    results = []
    for threads, skip, filling in (
        (1, False, 0x00),
        (2, False, 0xFF),
        (1, True, 0x7F),
        (2, True, 0),
    ):
        running = get_engine(
            "numba", layers, LOSSES[loss], input_scale=1.0,
            threads=min(threads, numba.config.NUMBA_NUM_THREADS),
        )  # fmt: skip
        running.skip_zeros = skip
        running.set_parameters(initial_parameters(layers, 0))
        progress = Progress()
        while progress.position < 1300:
            buffers = running._buffers
            between = progress.position % 600 == 0
            for array in (
                buffers.scratch,
                buffers.blocks,
                buffers.losses,
                buffers.hits,
                buffers.row_labels,
                buffers.row_weights,
                buffers.masks,
                buffers.lists,
                *((buffers.gradients, buffers.squares) if between else ()),
            ):
                array.view(np.uint8).fill(filling)
            progress = running.run_chunk(epoch, progress, 1)
        parts = running.get_parameters(), *running.get_state(2), running.loss_and_grad(data)[1]
        bits = b"".join(array.tobytes() for part in parts for pair in part for array in pair)
        results.append((progress, running.evaluate(data), running.predict(x).tobytes(), bits))
    assert all(result == results[0] for result in results)


def test_predictions_do_not_depend_on_the_batch(data):
    net = Network([9, 33, 4])
    net.fit(*data, epochs=1)
    together = net.predict_proba(data[0])
    for rows in (1, 2, 3, 7, 8, 9, 64, 600):
        start = 5
        assert (net.predict_proba(data[0][start : start + rows]) == together[start:][:rows]).all()
    one_thread = Network([9, 33, 4])
    one_thread.parameters = net.parameters
    one_thread.use_engine("numba", threads=1)
    assert (one_thread.predict_proba(data[0]) == together).all()


def test_bytes_and_floats_give_the_same_bits(rng):
    x = rng.integers(0, 256, (300, 30), dtype=np.uint8)
    y = rng.integers(0, 3, 300)
    from_bytes, from_floats = (Network([30, 8, 3], input_scale=1 / 255) for _ in range(2))
    from_bytes.fit(x, y, epochs=2)
    from_floats.fit(x.astype(np.float32), y, epochs=2)
    assert digest(from_bytes) == digest(from_floats)
