"""Dropout of a layer's inputs, with the masks of `fastnn.model.randomness.keep_mask`."""

import numpy as np

from fastnn.model.randomness import keep_factor


def drop(x: np.ndarray, mask: np.ndarray, dropout: float) -> None:
    """Compute ``x = x · keep_factor`` where the mask is true, else 0, in place.

    ``x`` (B, I) is a layer's input, or its gradient, for B rows and I inputs; ``mask`` (B, I) is
    bool.
    """
    x[...] = np.where(mask, x * keep_factor(dropout), 0)
