"""How kernels are compiled: every option of the JIT, and the cache, are here and nowhere else.

Four kinds of compiled function, from the inside out:

`jit`
    A serial function that other kernels call. It becomes part of whoever calls it, and Numba
    optimises it again for each of them and for each of theirs.
`Unit`
    A function that is compiled once and called by its name, as a linker would have it: for the
    products, which everything calls and which would take most of a cold start otherwise.
`Region`
    The body of a parallel region, ``region(task, job)``, compiled once and called by its address.
`Driver`
    The thin parallel loop that calls regions, and the only thing that Python calls.

No fast-math flag is set: the kernels spell out the order of every sum and where a product is
fused, and the compiler keeps to it. Numba's own cache follows one source file; ours lies in a
directory named by the hash of all that the kernels are made of, so that a change anywhere
compiles anew. It is private to the user, because what it holds is executed.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
from numba import config, types
from numba.extending import models, register_model
from platformdirs import user_cache_path

from fastnn import batches, layers, losses, randomness
from fastnn.kernels._simd import name_address

_OPTIONS = {"error_model": "numpy", "nogil": True}  # no division checks; other threads may run
_ADDRESS = types.int64


def jit(function: Callable) -> Any:
    """Compile a serial kernel, when the first kernel that calls it is compiled.

    Python cannot call it then: the two wrappers that this would take are left out, which saves a
    quarter of a cold start.
    """
    return numba.njit(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)


class _Compiled:
    """A function compiled once, from the cache where that can be; `compile` is idempotent."""

    def __init__(self, function: Callable) -> None:
        self.function = function
        self.from_cache = False
        self._compiled: Any = None

    @property
    def ready(self) -> bool:
        """Whether the function is compiled in this process."""
        return self._compiled is not None

    def compile(self) -> None:
        """Read the function from the cache, or compile it and put it there."""
        if not self.ready:
            with _numba_cache() as cached:
                try:
                    self._compiled = self._compile(cached)
                except Exception:
                    if not cached:
                        raise
                    # A torn or foreign file can fail in any way: drop the cache and go without.
                    discard_cache()
                    self._compiled = self._compile(cached=False)

    def _compile(self, cached: bool) -> Any:
        raise NotImplementedError


class Region(_Compiled):
    """The body of a parallel region, ``region(task, job)``, known by its address."""

    address: Any = None
    signature = types.void(types.int64, _ADDRESS)

    def _compile(self, cached: bool) -> Any:
        if config.DISABLE_JIT:
            self.address = self.function
            return self.function
        compiled = numba.cfunc(self.signature, cache=cached, **_OPTIONS)(self.function)
        self.address = compiled.address
        self.from_cache = compiled.cache_hits > 0
        return compiled


class _Symbol(types.ExternalFunction):
    """What a unit is to the JIT. A caller's compilation asks for its type, and so compiles it."""

    def __init__(self, name: str, unit: "Unit") -> None:
        super().__init__(name, unit.signature)
        self._unit = unit

    def get_call_type(self, *arguments: Any) -> Any:
        self._unit.compile()
        return super().get_call_type(*arguments)


register_model(_Symbol)(models.OpaqueModel)


class Unit(Region):
    """A function of numbers that kernels call as ``unit.call``.

    It must be compiled before a caller is read from the cache.
    """

    def __init__(self, function: Callable, *arguments: types.Type) -> None:
        super().__init__(function)
        self.signature = types.void(*arguments)
        self._symbol = f"fastnn.{function.__name__}"
        self.call = function if config.DISABLE_JIT else _Symbol(self._symbol, self)

    def _compile(self, cached: bool) -> Any:
        compiled = super()._compile(cached)
        if not config.DISABLE_JIT:
            name_address(self._symbol, self.address)
        return compiled


class Driver(_Compiled):
    """A parallel loop over regions, ``driver(rows_region, weights_region, job)``."""

    def _compile(self, cached: bool) -> Any:
        if config.DISABLE_JIT:
            return self.function
        signature = types.void(_ADDRESS, _ADDRESS, _ADDRESS)
        compiled = numba.njit(signature, parallel=True, cache=cached, **_OPTIONS)(self.function)
        self.from_cache = sum(compiled.stats.cache_hits.values()) > 0
        return compiled

    def __call__(self, rows_region: Any, weights_region: Any, job: int) -> None:
        """Run; the regions are addresses (0 for none) and so is the job."""
        self._compiled(rows_region, weights_region, job)


def _source_hash() -> str:
    """Hash every file that compiled code can depend on."""
    digest = hashlib.sha256()
    elsewhere = [Path(str(module.__file__)) for module in (batches, layers, losses, randomness)]
    for path in [*sorted(Path(__file__).parent.glob("*.py")), *elsewhere]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def cache_directory() -> Path:
    """Where these kernels' machine code is kept; NUMBA_CACHE_DIR moves it."""
    root = Path(config.CACHE_DIR) if config.CACHE_DIR else user_cache_path("fastnn")
    return root / f"kernels-{_source_hash()}"


def is_cached() -> bool:
    """Return whether an earlier process left compiled kernels of this version."""
    return any(cache_directory().glob("*/*.nbi"))


def discard_cache() -> None:
    """Remove the compiled kernels of this version."""
    shutil.rmtree(cache_directory(), ignore_errors=True)


def _make_private(directory: Path) -> bool:
    """Create a directory that only this user can write to; return whether it is so."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError:
        return False
    if hasattr(os, "getuid"):
        others = stat.S_IWGRP | stat.S_IWOTH
        if status.st_uid != os.getuid() or status.st_mode & others:
            return False
    return os.access(directory, os.W_OK | os.X_OK)


@contextmanager
def _numba_cache() -> Iterator[bool]:
    """Point Numba's cache at ours while something is compiled; yield whether it can be used."""
    directory = cache_directory()
    usable = _make_private(directory)
    before = config.CACHE_DIR
    config.CACHE_DIR = str(directory) if usable else before
    try:
        yield usable
    finally:
        config.CACHE_DIR = before
