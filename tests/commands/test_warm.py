"""`fastnn.warm` fills the cache of compiled kernels and prints where it is."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numba
import pytest
from command_line import posix

from fastnn.commands import warm
from fastnn.kernels import engine as numba_engine
from fastnn.kernels.jit import cache

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="needs compiled code")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a cache; compiling is replaced by writing empty files to it."""

    def compile_kernels() -> tuple[float, bool]:
        directory = cache.cache_directory()
        assert directory is not None
        for number in range(len(numba_engine.KERNELS)):
            (directory / f"{number}.kernel").touch(0o600)
        return 1.25, True

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "private"))
    monkeypatch.setattr(numba_engine, "compile_kernels", compile_kernels)
    tmp_path.chmod(0o700)
    return tmp_path / "cache"


@posix
@pytest.mark.parametrize("umask", [0, 0o077])
def test_prints_the_number_of_kernels_and_the_directory(
    umask: int, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = os.umask(umask)
    try:
        assert warm.main([str(root)]) == 0
    finally:
        os.umask(before)
    (place,) = root.iterdir()
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "compiling the kernels, which takes a few seconds"
    kernels = f"{len(numba_engine.KERNELS)} kernels (0 kB)"
    assert second == f"{kernels} were compiled in 1.2 s and stored in {place}"
    assert "NUMBA_CPU_NAME and NUMBA_CPU_FEATURES" in third
    modes = [path.stat().st_mode & 0o777 for path in (root, place, place / "0.kernel")]
    assert modes == [0o755, 0o755, 0o644]


@posix
def test_default_is_the_cache_of_the_user(root: Path) -> None:
    assert warm.main([]) == 0
    (place,) = (root.parent / "private").iterdir()
    modes = [path.stat().st_mode & 0o777 for path in (place, place / "0.kernel")]
    assert modes == [0o700, 0o600] and not root.exists()


def error_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = warm.main(argv)
    (line,) = capsys.readouterr().err.splitlines()
    return code, line


@posix
def test_unusable_directory_is_an_error(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root.touch()
    code, line = error_of([str(root)], capsys)
    assert (code, line) == (1, f"fastnn.warm: error: {root}: Not a directory")
    root.unlink()
    root.mkdir()
    root.chmod(0o777)
    code, line = error_of([str(root)], capsys)
    assert code == 1 and line.startswith("fastnn.warm: error: compiled kernels cannot be cached in")
    assert line.endswith("another user could put a directory in its place")
    root.chmod(0o755)
    monkeypatch.setattr(numba_engine, "compile_kernels", lambda: (1.0, True))  # as on a full disk
    code, line = error_of([str(root)], capsys)
    assert code == 1 and f"only 0 of {len(numba_engine.KERNELS)} kernels could be stored" in line
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert error_of([], capsys)[0] == 2


# Starts as root, because the other user may not be able to read the libraries.
AS_ANOTHER = """
import os
from fastnn.kernels import engine as numba_engine
numba_engine.compile_kernels()
os.setgroups([])
os.setgid(12345)
os.setuid(12345)
for kernel in numba_engine.KERNELS:
    kernel._compiled, kernel.from_cache = None, False
print(numba_engine.compile_kernels()[1])
"""


@pytest.mark.process
@posix
def test_another_user_uses_the_kernels_that_root_compiled() -> None:
    if os.getuid() != 0:
        pytest.skip("only root has root's files")
    with TemporaryDirectory() as folder:  # tmp_path is private
        os.chmod(folder, 0o755)
        place = os.path.join(folder, "kernels")
        for done in ("were compiled in", "were already in"):
            assert done in run("-m", "fastnn.warm", place).stdout
        other = run("-W", "error", "-c", AS_ANOTHER, NUMBA_CACHE_DIR=place)
        assert other.stdout.split() == ["False"], other.stderr


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    environment = os.environ | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
