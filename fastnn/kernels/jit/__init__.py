"""Compiling, caching and running kernels: almost all code that depends on Numba's internals.

`gemm.tile` also emits LLVM code, and `fastnn.system.forks` takes a lock of Numba.
"""
