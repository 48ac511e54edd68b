"""Marker of tests that need compiled code with fused multiply-add, as on most machines."""

import numba
import pytest

from fastnn.kernels.jit.simd import CPU_FEATURES, X86

fused = pytest.mark.skipif(
    numba.config.DISABLE_JIT or (X86 and "+fma" not in CPU_FEATURES),
    reason="needs compiled code with fused multiply-add",
)
