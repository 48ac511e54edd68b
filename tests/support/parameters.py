"""Comparisons of weights and biases."""

import numpy as np

from fastnn.model.layers import Parameters


def assert_same_parameters(one: Parameters, other: Parameters) -> None:
    """Check that all weights and biases are equal."""
    for pair, other_pair in zip(one, other, strict=True):
        for array, expected in zip(pair, other_pair, strict=True):
            np.testing.assert_array_equal(array, expected)


def assert_finite(parameters: Parameters) -> None:
    """Check that no weight or bias is NaN or infinite."""
    assert all(np.isfinite(array).all() for pair in parameters for array in pair)
