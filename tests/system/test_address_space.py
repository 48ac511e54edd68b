"""Libraries are not imported if the limit of address space is too low for them."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import assert_one_line

import fastnn
from fastnn.commands import session as _session
from fastnn.system import address_space


def test_imported_libraries_need_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_space, "address_space_left", lambda: 0.0)
    address_space.check_libraries("numpy")


def test_rejects_missing_libraries_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sklearn", "numba"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for left in (820e6, math.inf):
        monkeypatch.setattr(address_space, "address_space_left", lambda left=left: left)
        address_space.check_libraries("sklearn", "numba")
    monkeypatch.setattr(address_space, "address_space_left", lambda: 819e6)
    with pytest.raises(
        MemoryError, match=r"sklearn and numba takes about 820 MB .*ulimit -v.* 819"
    ):
        address_space.check_libraries("sklearn", "numba")
    with pytest.raises(MemoryError, match="importing sklearn takes"):
        monkeypatch.setattr(address_space, "address_space_left", lambda: 1e6)
        _session.import_early("fastnn.train", "sklearn.datasets")


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
@pytest.mark.parametrize(
    "command",
    [
        ["train", "--dataset", "digits"],
        ["train", "--dataset", "../small.npz"],
        ["report", "--quick", "--dataset", "../small.npz"],
        ["predict", "net.safetensors", "../small.npz"],
        ["predict", "estimator.safetensors", "../small.npz", "--engine", "numpy"],
        ["warm"],
    ],
)
def test_commands_name_the_limit_in_one_line(command: list[str], folder: Path) -> None:
    fastnn.Network([4, 3, 3]).save("net.safetensors")
    estimator = fastnn.MLPRegressor(hidden_layer_sizes=(2,), engine="numpy", solver="lbfgs")
    estimator.fit(np.eye(4), np.eye(4)).save("estimator.safetensors")
    code = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_AS, (400 << 20,) * 2)\n"
    name, *argv = command
    code += f"sys.argv[1:] = {argv}; runpy.run_module('fastnn.{name}', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert done.returncode == 1, done.stderr
    assert_one_line(done.stderr.replace(f"fastnn.{name}", "fastnn.train"))
    assert "address space, but the limit (ulimit -v) leaves" in done.stderr
