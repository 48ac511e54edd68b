"""Compilation of kernels, with all options of the JIT.

There are four kinds of compiled functions:

`jit`
    A serial function that kernels call. It is compiled as part of each kernel that calls it.
`unit`
    A function that is compiled once and called by its name, like a function of a linked library:
    used for large functions with many callers, which would take most of a cold start otherwise.
`Region`
    The code of one task of a parallel region, ``region(task, job)``, compiled once and called by
    its address.
`Driver`
    The loop over chunks, which runs the tasks of each region in parallel. Python calls nothing
    else.

No fast-math flag is set. The kernels determine the order of each sum and which products are fused,
and the compiler must not change it.
"""

from collections.abc import Callable
from typing import Any

import numba
from numba import config, types
from numba.extending import models, register_model

from fastnn.kernels.jit.cache import cache_directory, is_usable, numba_cache, warn_once
from fastnn.kernels.jit.simd import name_address
from fastnn.system.forks import setup_lock

_OPTIONS = {"error_model": "numpy", "nogil": True}  # no checks of divisors; releases the GIL
_ADDRESS = types.int64


def jit(function: Callable) -> Any:
    """Declare a serial function, which is compiled as part of each kernel that calls it.

    Python cannot call it: without the wrappers for that, a cold start takes a quarter less time.
    """
    return numba.njit(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)


class _Compiled:
    """A function that is compiled once, or read from the cache."""

    def __init__(self, function: Callable) -> None:
        self.function = function
        self.from_cache = False
        self._compiled: Any = None

    @property
    def ready(self) -> bool:
        """Whether the function is compiled in this process."""
        return self._compiled is not None

    def compile(self) -> None:
        """Read the function from the cache, or compile and cache it; later calls do nothing."""
        with setup_lock:  # `numba_cache` changes settings of Numba
            if not self.ready:
                self._compiled = self._compile_cached() or self._compile(cached=False)

    def _compile_cached(self) -> Any:
        """Return the function, or None if the cache cannot be used."""
        if config.DISABLE_JIT or not is_usable():
            return None
        try:
            with numba_cache():
                return self._compile(cached=True)
        except Exception as error:  # a full disk, a file that a newer Numba cannot read
            why = " ".join(str(error).split())  # in one line
            warn_once(f"compiled kernels cannot be cached in {cache_directory()}: {why}")
            return None

    def _compile(self, cached: bool) -> Any:
        raise NotImplementedError


class Region(_Compiled):
    """The code of one task of a parallel region, ``region(task, job)``, called by its address."""

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
    """The type of a unit in compiled code. Typing a call of a unit compiles the unit first."""

    def __init__(self, name: str, unit: "Unit") -> None:
        super().__init__(name, unit.signature)
        self._unit = unit

    def get_call_type(self, *arguments: Any) -> Any:
        self._unit.compile()
        return super().get_call_type(*arguments)


register_model(_Symbol)(models.OpaqueModel)


class Unit(Region):
    """A function of numbers, which kernels call by the symbol ``call``.

    It must be compiled, or read from the cache, before any of its callers is read from the cache.
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


UNITS: list[Unit] = []  # a unit comes after those that it calls


def unit(*arguments: types.Type) -> Callable[[Callable], Any]:
    """Declare a unit with arguments of these types, which kernels call by the function's name."""

    def declare(function: Callable) -> Any:
        UNITS.append(Unit(function, *arguments))
        return UNITS[-1].call

    return declare


class Driver(_Compiled):
    """The loop over chunks, which runs the tasks of each region in parallel."""

    def _compile(self, cached: bool) -> Any:
        if config.DISABLE_JIT:
            return self.function
        signature = types.void(_ADDRESS, _ADDRESS, _ADDRESS)
        compiled = numba.njit(signature, parallel=True, cache=cached, **_OPTIONS)(self.function)
        self.from_cache = sum(compiled.stats.cache_hits.values()) > 0
        return compiled

    def __call__(self, rows_region: Any, weights_region: Any, job: int) -> None:
        """Run the loop. The arguments are addresses."""
        self._compiled(rows_region, weights_region, job)
