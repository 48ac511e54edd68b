"""Kernels are compiled once, and compiling restores Numba's settings."""

from concurrent.futures import ThreadPoolExecutor

import numba
import pytest
from numba import config
from numba.core import caching

from fastnn.kernels.engine import compile_kernels
from fastnn.kernels.jit.cache import cache_directory, is_cached
from fastnn.kernels.jit.compiling import Region

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="needs compiled code")


def small_region(task, job):
    task + job


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def settings():
    classes = caching.CacheImpl._locator_classes
    return config.CACHE_DIR, classes, caching.IndexDataCacheFile


def test_second_compilation_reads_the_cache(root):
    before = settings()
    assert not is_cached(1)
    first, second = Region(small_region), Region(small_region)
    first.compile()
    assert is_cached(1) and not is_cached(2)
    second.compile()
    assert (first.from_cache, second.from_cache) == (False, True)
    assert first.ready and first.address and second.address
    assert settings() == before


def test_failed_compilation_restores_numbas_settings(root):
    before = settings()

    def no_region(task, job):
        return "text"

    with (
        pytest.warns(RuntimeWarning, match="compiled kernels cannot be cached"),
        pytest.raises(numba.errors.NumbaError),
    ):
        Region(no_region).compile()
    assert settings() == before


def test_concurrent_threads_compile_a_function_once(root):
    before, region = settings(), Region(small_region)
    others = [Region(small_region) for _ in range(3)]
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(each.compile) for each in (region, *others, region)]:
            done.result()
    assert sum(not each.from_cache for each in (region, *others)) == 1
    assert len(list(cache_directory().iterdir())) == 1
    assert settings() == before


def test_only_the_first_engine_of_a_process_compiles():
    compile_kernels()
    assert compile_kernels()[1] is False
