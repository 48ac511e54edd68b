"""Marker of tests that need compiled code with fused multiply-add, as on most machines."""

import numba
import pytest

from fastnn.kernels.jit.simd import FEATURES, X86

fused = pytest.mark.skipif(
    numba.config.DISABLE_JIT or (X86 and "+fma" not in FEATURES),
    reason="needs compiled code with fused multiply-add",
)
