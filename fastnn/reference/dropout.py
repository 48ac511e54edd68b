"""Dropout: a mask, drawn by `fastnn.model.randomness.keep_mask`, over the inputs of a layer."""

import numpy as np

from fastnn.model.randomness import keep_factor


def drop(x: np.ndarray, mask: np.ndarray, dropout: float) -> None:
    """Compute ``x = x · keep_factor`` where the mask keeps, else 0; so too for a gradient."""
    x[...] = np.where(mask, x * keep_factor(dropout), 0)
