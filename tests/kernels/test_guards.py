"""Kernels write only to their buffers: the bytes around each buffer do not change."""

import sys
from typing import NamedTuple

import numpy as np
import pytest
import scipy.sparse as sp

from fastnn import Network
from fastnn.kernels import engine as numba_engine
from fastnn.kernels import workspace
from fastnn.kernels.layers import sparse

GUARD, BYTES = 0xAB, 1 << 12


class Buffer(NamedTuple):
    memory: np.ndarray
    start: int
    stop: int
    name: str

    def is_intact(self) -> bool:
        guards = self.memory[: self.start], self.memory[self.stop :]
        return all((guard == GUARD).all() for guard in guards)


@pytest.fixture
def buffers(monkeypatch) -> list[Buffer]:
    """Surround all buffers with guard bytes, checked after each call; allow three threads."""
    allocated: list[Buffer] = []

    def aligned_zeros(size, dtype=np.float32):
        count = size * np.dtype(dtype).itemsize
        memory = np.full(count + workspace.ALIGNMENT + 2 * BYTES, GUARD, np.uint8)
        start = -workspace.address(memory) % workspace.ALIGNMENT + BYTES
        memory[start : start + count] = 0
        caller = sys._getframe(1).f_code.co_name
        allocated.append(Buffer(memory, start, start + count, f"{caller}, {size} {dtype}"))
        return memory[start : start + count].view(dtype)

    for module in (workspace, sparse):
        monkeypatch.setattr(module, "aligned_zeros", aligned_zeros)
    call = numba_engine.NumbaEngine._call

    def checked(engine, job, tasks):
        call(engine, job, tasks)
        changed = [buffer.name for buffer in allocated if not buffer.is_intact()]
        assert not changed, (changed, tasks, job.mode, job.x_is_sparse, job.n, job.batch_size)

    monkeypatch.setattr(numba_engine.NumbaEngine, "_call", checked)
    monkeypatch.setattr(numba_engine, "usable_threads", lambda: 3)
    return allocated


def features(rng: np.random.Generator, rows: int, inputs: int):
    """Return features of a random form and density."""
    x = rng.random((rows, inputs), dtype=np.float32) + 0.5
    x[rng.random(x.shape) > rng.choice([0, 0.02, 0.3, 1])] = 0
    form = rng.integers(3)
    return [x, sp.csr_array(x), (255 * x / 2).astype(np.uint8)][form]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("seed", range(24))
def test_no_call_writes_outside_a_buffer(seed, buffers):
    rng = np.random.default_rng(seed)
    inputs, hidden, classes = (
        int(rng.choice(sizes)) for sizes in ([1, 7, 16, 33], [3, 40], [2, 5])
    )
    net = Network([inputs, hidden, classes], seed=seed, dropout=float(rng.choice([0, 0.3])))
    threads = 1 + seed % 3
    for _ in range(8):
        rows = int(rng.choice([1, 30, 65, 513, 1100]))
        x, y = features(rng, rows, inputs), rng.integers(0, classes, rows)
        net.use_engine("numba", threads=threads)
        net.predict(x)
        net.evaluate(x, y)
        net.fit(
            x, y, epochs=2, batch_size=int(rng.choice([1, 32, 1000])), threads=threads,
            optimizer=str(rng.choice(["sgd", "momentum", "adam"])), learning_rate=1e-3,
            clip_norm=float(rng.choice([0, 1])), l2=float(rng.choice([0, 1e-3])),
            validation_fraction=0.3 if rows > 1 else 0,
        )  # fmt: skip
    assert len(buffers) > 10
