"""The weights' SHA-256 after fixed fits: the same on every machine with fused multiply-add.

Neither the number of threads nor the vector instructions (AVX2, AVX-512, ARM's NEON) may change a
bit. Machines without fused multiply-add round each product and give other bits.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import hashed_fits
import numba
import pytest
from fused import fused
from hashed_fits import FITS, weights_hash

import fastnn
from fastnn.kernels.jit.simd import CPU_FEATURES

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
        [sys.executable, hashed_fits.__file__, "1", "2", "3"],
        env=os.environ | {"NUMBA_NUM_THREADS": "3", "PYTHONPATH": package} | environment,
        capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@fused
@pytest.mark.process
def test_three_threads_give_the_known_hashes():
    assert hashes() == {threads: HASHES for threads in "123"}


@pytest.mark.skipif("+avx512f" not in CPU_FEATURES, reason="needs a machine with AVX-512")
@fused
@pytest.mark.process
def test_avx2_gives_the_known_hashes_on_a_machine_with_avx_512():
    """Both variables are needed: NUMBA_CPU_NAME alone does not change the features."""
    avx2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"}
    assert hashes(**avx2) == {threads: HASHES for threads in "123"}
