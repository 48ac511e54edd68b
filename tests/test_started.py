"""Only tests with the marker `process` can start processes or compile kernels."""

import multiprocessing
import os
import subprocess
import sys

import joblib
import numba
import pytest

from fastnn.kernels.jit.compiling import Region
from fastnn.kernels.regions import rows_region

STARTS = [
    lambda: subprocess.run([sys.executable, "-c", "0"], check=True),
    lambda: os.system("exit 0"),
    lambda: multiprocessing.get_context("spawn").Process(target=print).start(),
    lambda: joblib.Parallel(2)(joblib.delayed(abs)(number) for number in range(4)),
]
STARTS += [os.fork] if hasattr(os, "fork") else []


@pytest.mark.parametrize("start", STARTS)
def test_starting_a_process_needs_the_marker(start):
    with pytest.raises(pytest.fail.Exception, match="starts a process .* no marker `process`"):
        start()


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="needs compiled code")
def test_compiling_needs_the_marker(tmp_path, monkeypatch):
    with pytest.raises(pytest.fail.Exception, match="recompiles the kernels"):
        numba.cfunc("void(int64, int64)")(rows_region)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match="recompiles the kernels"):
        Region(rows_region).compile()


@pytest.mark.process
def test_starts_a_process_with_the_marker():
    assert subprocess.run([sys.executable, "-c", "0"], check=True).returncode == 0
