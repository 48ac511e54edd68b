"""A fully connected layer: its output, and the gradients of its weights and its input.

Shapes: ``x`` (B, I), ``w`` (I, O), ``b`` (O,), ``z`` (B, O), for B rows, I inputs and O outputs of
the layer. A gradient has the shape of its tensor. The first arguments are the outputs, which are
overwritten.
"""

import numpy as np


def dense_forward(z: np.ndarray, x: np.ndarray, w: np.ndarray, b: np.ndarray) -> None:
    """Compute ``z = x w + b``."""
    np.matmul(x, w, out=z)
    z += b


def dense_backward_weights(dw: np.ndarray, db: np.ndarray, dz: np.ndarray, x: np.ndarray) -> None:
    """Compute ``dw = xᵀ dz`` and ``db = Σ dz`` over the samples."""
    np.matmul(x.T, dz, out=dw)
    np.sum(dz, axis=0, out=db)


def dense_backward_input(dx: np.ndarray, dz: np.ndarray, w: np.ndarray) -> None:
    """Compute ``dx = dz wᵀ``."""
    np.matmul(dz, w.T, out=dx)
