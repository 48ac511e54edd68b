"""The weights' SHA-256 after fixed fits: the same on every machine with fused multiply-add.

Neither the number of threads nor the vector instructions (AVX2, AVX-512, ARM's NEON) may change a
bit. Machines without fused multiply-add round products on their own and give other bits.
``python tests/test_weights_hash.py 1 2`` prints the hashes for one and two threads as JSON.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from scipy.sparse import csr_array

import fastnn
from fastnn import Network
from fastnn.kernels.jit.simd import FEATURES, X86

ROWS, INPUTS, CLASSES = 1300, 75, 5  # more than two chunks; no multiple of a vector


def integers(*shape: int) -> np.ndarray:
    """Return fixed scrambled numbers from 0 to 2**24 - 1, from integer arithmetic alone."""
    numbers = np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(1)
    for factor in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9):
        numbers = (numbers ^ (numbers >> np.uint64(29))) * np.uint64(factor)
    return (numbers >> np.uint64(40)).astype(np.int64).reshape(shape)


def features(kind: str) -> Any:
    """Return (ROWS, INPUTS) features: "dense", or four of five are "zeros", also as "sparse"."""
    noise = integers(ROWS, INPUTS)
    if kind == "dense":
        return ((noise % 2048 - 1024) / 1024).astype(np.float32)
    pixels = np.where(noise % 5 == 0, noise // 5 % 256, 0).astype(np.uint8)
    return pixels if kind == "zeros" else csr_array(pixels)


# By name: the features, the network's settings, the fit's settings.
FITS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "dense": ("dense", {}, {}),
    "zeros skipped": ("zeros", {"input_scale": 1 / 255}, {}),
    "sparse rows": ("sparse", {"input_scale": 1 / 255}, {}),
    "full batch": ("dense", {}, {"batch_size": "full", "learning_rate": 0.5, "epochs": 8}),
    "momentum, tanh, clipped": (
        "zeros",
        {"input_scale": 1 / 255, "activation": "tanh"},
        {"optimizer": "momentum", "clip_norm": 0.5, "l2": 0.01},
    ),
    "Adam, dropout, GELU": (
        "dense",
        {"activation": ["gelu", "logistic"], "dropout": [0.1, 0.4, 0.2]},
        {"optimizer": "adamw", "batch_size": 600, "epochs": 4},
    ),
    "Poisson": ("dense", {"loss": "poisson"}, {"learning_rate": 0.01}),
    "sparse, Adam, dropout": (
        "sparse",
        {"input_scale": 1 / 255, "activation": "leaky_relu", "dropout": 0.2},
        {"optimizer": "adam"},
    ),
}

HASHES = {
    "dense": "4d1d4f716fae6cc5947c5d5abf22017bf030baeed5779cb205bd5f3fd72b1526",
    "zeros skipped": "4f55134fa4b504fed5469397649ff7d45eceb3efaca9ec7b18665d4249930376",
    "sparse rows": "4f55134fa4b504fed5469397649ff7d45eceb3efaca9ec7b18665d4249930376",
    "full batch": "609549a1de170eccab47601f0f8af140427294e5a6424bef88fbceb75176a507",
    "momentum, tanh, clipped": "b7e5de39453815e8e20b41d0ed986a2c7c900000e93dfd56136bc376cd4ed27e",
    "Adam, dropout, GELU": "da1bed8ec9b90a7116659545f87063073f545c1416797ba71be4a92b1e639fd6",
    "Poisson": "14e882665440d0e825e69dedc0f0562c579c1542c738af5c21ffece06800d4b5",
    "sparse, Adam, dropout": "d93ad0093c734dacf79f03fc2a2a7f4d76aeb20af7594e12506dd8e3a8840674",
}


def weights_hash(name: str, threads: int) -> str:
    kind, of_network, of_fit = FITS[name]
    network = Network([INPUTS, 50, 17, CLASSES], **of_network)
    targets = features("dense")[:, :CLASSES]
    if network.loss.takes_labels:
        targets = targets.argmax(axis=1)
    else:
        targets = np.abs(targets)  # Poisson's targets are at least 0
    settings = {"epochs": 2, "batch_size": 100, "threads": threads} | of_fit
    network.fit(features(kind), targets, **settings)
    return network.weights_sha256()


fused = pytest.mark.skipif(
    numba.config.DISABLE_JIT or (X86 and "+fma" not in FEATURES),
    reason="needs compiled code with fused multiply-add",
)


@fused
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", FITS)
def test_weights_have_the_known_hash(name, threads):
    threads = min(threads, numba.config.NUMBA_NUM_THREADS)
    assert weights_hash(name, threads) == HASHES[name]


def hashes(**environment: str) -> dict[str, dict[str, str]]:
    """Compute the hashes for 1 to 3 threads in a process of their own."""
    package = str(Path(fastnn.__file__).parents[1])
    process = subprocess.run(
        [sys.executable, __file__, "1", "2", "3"],
        env=os.environ | {"NUMBA_NUM_THREADS": "3", "PYTHONPATH": package} | environment,
        capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@fused
@pytest.mark.process
def test_three_threads_give_the_known_hashes():
    assert hashes() == {threads: HASHES for threads in "123"}


@pytest.mark.skipif("+avx512f" not in FEATURES, reason="needs a machine with AVX-512")
@fused
@pytest.mark.process
def test_avx2_gives_the_known_hashes_on_a_machine_with_avx_512():
    """Both variables are needed: the name alone leaves the features as they are."""
    avx2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"}
    assert hashes(**avx2) == {threads: HASHES for threads in "123"}


if __name__ == "__main__":
    counts = map(int, sys.argv[1:])
    print(json.dumps({n: {name: weights_hash(name, n) for name in FITS} for n in counts}, indent=1))
