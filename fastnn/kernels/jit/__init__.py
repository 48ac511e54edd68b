"""How kernels are compiled, cached and run on threads: all that knows Numba's internals."""
