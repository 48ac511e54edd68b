"""Activations, element by element. Outputs come first and may be the input itself."""

import numpy as np


def relu_forward(a: np.ndarray, z: np.ndarray) -> None:
    """Compute ``a = max(z, 0)``; a NaN stays a NaN."""
    np.maximum(z, 0, out=a)


def relu_backward(dz: np.ndarray, da: np.ndarray, a: np.ndarray) -> None:
    """Compute ``dz = da`` where ``a > 0``, else 0: the derivative at 0 is taken as 0."""
    dz[...] = np.where(a > 0, da, 0)
