"""Update rules: how a parameter follows its gradient."""

import numpy as np


def sgd_update(w: np.ndarray, dw: np.ndarray, learning_rate: float) -> None:
    """Compute ``w = w - learning_rate · dw``: gradient descent; batch or mini-batch is the caller's."""
    w -= np.float32(learning_rate) * dw
