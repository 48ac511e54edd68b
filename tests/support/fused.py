"""The marker of tests whose bits need fused multiply-add: compiled code on most machines."""

import numba
import pytest

from fastnn.kernels.jit.simd import CPU_FEATURES, X86

fused = pytest.mark.skipif(
    numba.config.DISABLE_JIT or (X86 and "+fma" not in CPU_FEATURES),
    reason="needs compiled code with fused multiply-add",
)
