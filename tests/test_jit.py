"""The cache of compiled kernels: private, complete, and never in the way."""

import os
import stat

import numba
import pytest

from fastnn.kernels import _jit
from fastnn.kernels._jit import Region

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="about compiled code alone")
posix = pytest.mark.skipif(os.name != "posix", reason="about POSIX permissions")


def small_region(task, job):
    task + job


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def compiled():
    region = Region(small_region)
    region.compile()
    assert region.address and region.ready
    return region


def test_what_is_compiled_once_is_read_from_the_cache(root):
    assert not _jit.is_cached()
    assert not compiled().from_cache
    assert _jit.is_cached()
    assert compiled().from_cache
    assert numba.config.CACHE_DIR == str(root)  # Numba's own setting is as it was
    _jit.discard_cache()
    assert not _jit.is_cached()
    assert not compiled().from_cache


def test_the_name_of_the_cache_follows_every_kernel_source(root, monkeypatch):
    before = _jit.cache_directory()
    for name in ("regions.py", "_simd.py", "batches.py"):
        real = _jit.Path.read_bytes

        def changed(path, real=real, name=name):
            return real(path) + (b"#" if path.name == name else b"")

        monkeypatch.setattr(_jit.Path, "read_bytes", changed)
        assert _jit.cache_directory() != before
        monkeypatch.undo()


@posix
def test_the_cache_is_private(root):
    compiled()
    assert stat.S_IMODE(_jit.cache_directory().stat().st_mode) == 0o700


@posix
def test_a_directory_that_others_can_write_to_is_not_used(root):
    _jit.cache_directory().mkdir(parents=True)
    _jit.cache_directory().chmod(0o777)
    assert not compiled().from_cache
    assert not compiled().from_cache
    assert not any(_jit.cache_directory().iterdir())


def test_without_a_directory_it_compiles_all_the_same(root, monkeypatch):
    (root / "file").write_text("in the way")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(root / "file"))
    assert not compiled().from_cache


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", ["empty", "cut", "noise"])
def test_a_damaged_cache_is_compiled_anew(root, ending, damage):
    compiled()
    for path in _jit.cache_directory().rglob(f"*.{ending}"):
        content = path.read_bytes()
        half = len(content) // 2
        path.write_bytes({"empty": b"", "cut": content[:half], "noise": os.urandom(half)}[damage])
    assert not compiled().from_cache
    compiled()
