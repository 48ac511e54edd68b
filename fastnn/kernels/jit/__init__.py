"""Compiling, caching and running kernels: all code that depends on Numba's internals."""
