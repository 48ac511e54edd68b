"""Update rules: how a parameter follows its gradient."""

import numpy as np


def sgd_update(w: np.ndarray, dw: np.ndarray, learning_rate: float) -> None:
    """Step down the gradient: ``w = w - learning_rate · dw``."""
    w -= np.float32(learning_rate) * dw
