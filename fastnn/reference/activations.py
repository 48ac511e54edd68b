"""Activations and their derivatives, element by element.

Shapes: ``z``, ``a`` and their gradients ``dz`` and ``da`` are (B, O), for B rows and O outputs of a
layer. The first argument is the output; it may be the same array as an input. A backward function
computes the derivative from ``a``, for GELU from ``z``. At a kink it takes the derivative from the
left.
"""

import numpy as np

from fastnn.model.layers import LEAK

# GELU in the tanh form: z / 2 · (1 + tanh(GELU_SCALE · (z + GELU_CUBIC · z³)))
GELU_SCALE, GELU_CUBIC = np.float32(np.sqrt(2 / np.pi)), np.float32(0.044715)


def relu_forward(a: np.ndarray, z: np.ndarray) -> None:
    """Compute ``a = max(z, 0)``; a NaN stays a NaN."""
    np.maximum(z, 0, out=a)


def relu_backward(dz: np.ndarray, da: np.ndarray, a: np.ndarray) -> None:
    """Compute ``dz = da`` where ``a > 0``, else 0."""
    dz[...] = np.where(a > 0, da, 0)


def leaky_relu_forward(a: np.ndarray, z: np.ndarray) -> None:
    """Compute ``a = z`` where ``z > 0``, else ``LEAK · z`` (Maas, Hannun and Ng 2013)."""
    a[...] = np.where(z > 0, z, LEAK * z)


def leaky_relu_backward(dz: np.ndarray, da: np.ndarray, a: np.ndarray) -> None:
    """Compute ``dz = da`` where ``a > 0``, else ``LEAK · da``."""
    dz[...] = np.where(a > 0, da, LEAK * da)


def logistic_forward(a: np.ndarray, z: np.ndarray) -> None:
    """Compute ``a = 1 / (1 + e⁻ᶻ)``."""
    with np.errstate(over="ignore"):  # 1 / (1 + ∞) = 0 is right
        a[...] = 1 / (1 + np.exp(-z))


def logistic_backward(dz: np.ndarray, da: np.ndarray, a: np.ndarray) -> None:
    """Compute ``dz = da · a (1 - a)``."""
    dz[...] = da * (a * (1 - a))


def tanh_forward(a: np.ndarray, z: np.ndarray) -> None:
    """Compute ``a = tanh z``."""
    np.tanh(z, out=a)


def tanh_backward(dz: np.ndarray, da: np.ndarray, a: np.ndarray) -> None:
    """Compute ``dz = da · (1 - a²)``."""
    dz[...] = da * (1 - a * a)


def gelu_forward(a: np.ndarray, z: np.ndarray) -> None:
    """Compute ``a = z / 2 · (1 + tanh u)``, ``u = GELU_SCALE · (z + GELU_CUBIC · z³)``.

    This approximates z·Φ(z) within 5e-4, where Φ is the distribution function of the standard
    normal distribution (Hendrycks and Gimpel 2016).
    """
    u = GELU_SCALE * (z + GELU_CUBIC * (z * z * z))
    a[...] = np.float32(0.5) * z * (1 + np.tanh(u))


def gelu_backward(dz: np.ndarray, da: np.ndarray, z: np.ndarray) -> None:
    """Compute ``dz = da · (1 + t + z (1 - t²) u') / 2`` with ``t = tanh u``."""
    t = np.tanh(GELU_SCALE * (z + GELU_CUBIC * (z * z * z)))
    du = GELU_SCALE * (1 + 3 * GELU_CUBIC * (z * z))
    dz[...] = da * (np.float32(0.5) * (1 + t + z * (1 - t * t) * du))
