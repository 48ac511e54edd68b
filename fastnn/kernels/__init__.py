"""The fast engine, compiled by Numba. Begin with `step`; `_gemm` holds the arithmetic's core."""
