"""How kernels are compiled: every option of the JIT is here and nowhere else.

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
fused, and the compiler keeps to it.
"""

from collections.abc import Callable
from typing import Any

import numba
from numba import config, types
from numba.extending import models, register_model

from fastnn.kernels.jit.cache import cache_directory, numba_cache, tell, usable
from fastnn.kernels.jit.simd import name_address
from fastnn.system.forks import setup_lock

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
        with setup_lock:  # from here to there Numba's settings are ours
            if not self.ready:
                self._compiled = self._compile_cached() or self._compile(cached=False)

    def _compile_cached(self) -> Any:
        """Return the function, or None where the cache cannot be used."""
        if config.DISABLE_JIT or not usable():
            return None
        try:
            with numba_cache():
                return self._compile(cached=True)
        except Exception as error:  # a full disk, a file that a newer Numba cannot read
            why = " ".join(str(error).split())
            tell(f"compiled kernels cannot be kept in {cache_directory()}: {why}")
            return None

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
