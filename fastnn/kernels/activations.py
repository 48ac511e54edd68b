"""Activations over a block of rows. Twin of `reference.activations`."""

from fastnn.kernels._jit import jit
from fastnn.kernels._simd import NR, ONE, ZERO


@jit
def relu_forward(workspace, at, stride, rows, width):
    """``a = max(z, 0)`` in place, NaN kept, and the column of ones behind it; a (rows, width)."""
    for i in range(rows):
        row = at + i * stride
        for j in range(row, row + width):
            z = workspace[j]
            workspace[j] = ZERO if z < ZERO else z
        workspace[row + width] = ONE


@jit
def relu_backward(workspace, dz_at, dz_stride, a_at, a_stride, rows, panels):
    """``dz = da`` where a > 0, else 0, in place; dz (rows, panels·NR), a (rows, …) read.

    Lanes past the width hold zeros in dz, whatever `a` has there.
    """
    for i in range(rows):
        dz, a = dz_at + i * dz_stride, a_at + i * a_stride
        for j in range(panels * NR):
            da = workspace[dz + j]  # read in any case: depending on `a`, it becomes a branch
            workspace[dz + j] = da if workspace[a + j] > ZERO else ZERO
