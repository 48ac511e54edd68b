"""How kernels are compiled, cached and run on threads; everything that touches Numba's internals."""
