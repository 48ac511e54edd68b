"""fastnn without source files: in a zip file, as bytecode, in a frozen program."""

import compileall
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numba
import pytest

import fastnn

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="needs compiled code")
PACKAGE = Path(fastnn.__file__).parent

PROGRAM = """
import numpy as np
import fastnn
from fastnn import Network
net = Network([4, 3, 2])
net.fit(np.zeros((8, 4), np.float32), [0, 1] * 4, epochs=1)
print(fastnn.__file__, net.use_engine("numba").compiled)
"""


def run_twice(command: list[str], cache: Path, path: Path | None = None) -> str:
    """Run a program twice; return the path of its fastnn. The second run uses the cache."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    environment.pop("PYTHONPATH", None)
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    for compiled in ("True", "False"):
        done = subprocess.run(
            command, env=environment, cwd=cache.parent, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        place, what = done.stdout.split()[-2:]
        assert what == compiled, done.stderr
    return place


@pytest.mark.process
def test_runs_from_a_zip_file(tmp_path: Path) -> None:
    app = tmp_path / "app.zip"
    with zipfile.ZipFile(app, "w") as archive:
        for path in PACKAGE.rglob("*.py"):
            archive.write(path, Path("fastnn") / path.relative_to(PACKAGE))
    place = run_twice([sys.executable, "-c", PROGRAM], tmp_path / "cache", app)
    assert place.startswith(str(app))


@pytest.mark.long
def test_runs_from_bytecode(tmp_path: Path) -> None:
    for path in PACKAGE.rglob("*.py"):
        copy = tmp_path / "app" / "fastnn" / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    compileall.compile_dir(tmp_path / "app", quiet=1, legacy=True)
    for path in (tmp_path / "app").rglob("*.py"):
        path.unlink()
    place = run_twice([sys.executable, "-c", PROGRAM], tmp_path / "cache", tmp_path / "app")
    assert place.endswith(".pyc")


@pytest.mark.long
def test_runs_in_a_frozen_program(tmp_path: Path) -> None:
    pytest.importorskip("PyInstaller")
    (tmp_path / "program.py").write_text(PROGRAM)
    unneeded = ("IPython", "jax", "matplotlib", "onnx", "pandas", "pytest", "sklearn", "torch")
    subprocess.run(
        [sys.executable, "-m", "PyInstaller", "--onedir", "--collect-submodules", "fastnn"]
        + [word for name in unneeded for word in ("--exclude-module", name)]
        + ["program.py"],
        cwd=tmp_path, check=True, capture_output=True, timeout=900,
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
    )  # fmt: skip
    place = run_twice([str(tmp_path / "dist" / "program" / "program")], tmp_path / "cache")
    assert place.startswith(str(tmp_path / "dist"))
