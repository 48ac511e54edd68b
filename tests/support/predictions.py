"""Predictions of a model in float64, with bounds on the errors of float32."""

import exact_step
import numpy as np
from tolerances import U


def exact_predictions(network, x, error=0.0):
    """Return predictions (n, O) and their bounds; `error` is the bound of the features."""
    layers, scale = network.layers, network.input_scale
    return exact_step.predict(layers, network.loss, scale, network.parameters, x, error)


def exact_probabilities(classifier, x, error=0.0):
    """Return the probabilities of all classes and their bounds."""
    p, bound = exact_predictions(classifier._network, x, error)
    if len(classifier.classes_) == 2 and p.shape[1] == 1:
        return np.hstack([1 - p, p]), np.hstack([bound + U, bound])
    return p, bound


def assert_within(got, expected, bound):
    """Check each element of the predictions."""
    assert got.shape == expected.shape
    excess = np.abs(got - expected) - bound
    assert excess.max() <= 0, f"the error exceeds its bound by {excess.max():.3g}"


def assert_same_labels(got, expected, p, bound):
    """Check labels, except those that rounding may change."""
    assert got.shape == expected.shape
    if got.ndim == 1 and p.shape[1] > 1:
        two = np.sort(p, axis=1)[:, -2:]
        clear = two[:, 1] - two[:, 0] > 2 * bound.max(axis=1)
    else:
        clear = (np.abs(p - 0.5) > bound).reshape(got.shape)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(got[clear], expected[clear])
