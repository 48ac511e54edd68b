"""The kernels as plain Python, where indices are checked and coverage can be measured."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process
TESTS = Path(__file__).parents[1]
WITHOUT_JIT = os.environ | {"NUMBA_DISABLE_JIT": "1"}

PROGRAM = """
import numpy as np
from scipy.sparse import csr_array
from fastnn import Network
rng = np.random.default_rng(0)
x, y = rng.integers(0, 256, (600, 20), dtype=np.uint8), rng.integers(0, 3, 600)
rows, nets = csr_array(x * (x < 50)), []
for engine in ("numba", "numpy"):
    net = Network([20, 18, 17, 3], input_scale=1 / 255)
    histories = [net.fit(x, y, epochs=1, batch_size=n, engine=engine) for n in (100, 600)]
    how = {"epochs": 1, "engine": engine, "optimizer": "adam"}
    histories += [net.fit(rows, y, batch_size=n, **how) for n in (100, 600)]
    nets.append((net, [history["loss"][0] for history in histories]))
(fast, fast_losses), (plain, plain_losses) = nets
np.testing.assert_allclose(fast_losses, plain_losses, rtol=1e-6)
np.testing.assert_allclose(fast.predict_proba(x), plain.predict_proba(x), rtol=1e-5)
"""


def test_engines_agree_without_the_jit():
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=WITHOUT_JIT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_kernel_tests_pass_without_the_jit():
    names = "kernels/test_kernels.py", "engines/test_dense.py", "kernels/test_zeros.py"
    files = [str(TESTS / name) for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, env=WITHOUT_JIT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
