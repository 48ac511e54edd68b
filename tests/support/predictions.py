"""What a model predicts, in float64, and how far a float32 computation of it may lie from that."""

import exact_step
import numpy as np
from tolerances import U


def exact_predictions(network, x, error=0.0):
    """Return the predictions (n, O) and their bounds; `error` is that of the features."""
    layers, scale = network.layers, network.input_scale
    return exact_step.predicted(layers, network.loss, scale, network.parameters, x, error)


def exact_probabilities(classifier, x, error=0.0):
    """Return the probabilities of all classes, and their bounds."""
    p, bound = exact_predictions(classifier._network, x, error)
    if len(classifier.classes_) == 2 and p.shape[1] == 1:
        return np.hstack([1 - p, p]), np.hstack([bound + U, bound])
    return p, bound


def assert_within(got, expected, bound):
    """Check predictions, element by element."""
    assert got.shape == expected.shape
    excess = np.abs(got - expected) - bound
    assert excess.max() <= 0, f"off by {excess.max():.3g} beyond the bound"


def assert_same_labels(got, expected, p, bound):
    """Check labels, but for rows that rounding may have decided."""
    assert got.shape == expected.shape
    if got.ndim == 1 and p.shape[1] > 1:
        two = np.sort(p, axis=1)[:, -2:]
        clear = two[:, 1] - two[:, 0] > 2 * bound.max(axis=1)
    else:
        clear = (np.abs(p - 0.5) > bound).reshape(got.shape)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(got[clear], expected[clear])
