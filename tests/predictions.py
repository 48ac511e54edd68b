"""What a network predicts, in float64, and how far a float32 computation of it may lie from that.

The bound is a running one (Higham, Accuracy and Stability, section 3.3): what a value may be off
by goes through every layer with it. A product adds `tolerances.PRODUCT_BOUND`; an activation
multiplies by its steepest slope and adds the error of its own evaluation.
"""

import numpy as np
from formulas import ACTIVATIONS
from tolerances import PRODUCT_BOUND, U

# Of z / 2 · (1 + tanh u), found by its derivative; the others' are at 0.
SLOPES = {"logistic": 0.25, "gelu": 1.13}

# An activation or a link, in units of U of the larger of 1 and its argument: tanh and the logistic
# function are rational approximations, and GELU is up to nine operations. Measured
# with ONNX Runtime, NumPy and the kernels: 3.3 at most; doubled for luck.
FUNCTION_ERROR = 6.6


def exact_predictions(network, x, error=0.0):
    """Return the predictions (n, O) and their bounds; `error` is that of the features."""
    a = x.astype(np.float64) * np.float64(np.float32(network.input_scale))
    error = error * network.input_scale + U * np.abs(a)
    for layer, (w, b) in zip(network.layers, network.parameters, strict=True):
        w, b = w.astype(np.float64), b.astype(np.float64)
        size = (np.abs(a) + error) @ np.abs(w) + np.abs(b)
        error = error @ np.abs(w) + PRODUCT_BOUND * (len(w) + 1) * U * size
        z = a @ w + b
        a, error = ACTIVATIONS[layer.activation](z), SLOPES.get(layer.activation, 1.0) * error
        if layer.activation != "identity":
            error += FUNCTION_ERROR * U * np.maximum(1, np.abs(z))
    return _linked(network.loss.link, a, error)


def exact_probabilities(classifier, x, error=0.0):
    """Return the probabilities of all classes, and their bounds."""
    p, bound = exact_predictions(classifier._network, x, error)
    if len(classifier.classes_) == 2 and p.shape[1] == 1:
        return np.hstack([1 - p, p]), np.hstack([bound + U, bound])
    return p, bound


def _linked(link, z, error):
    """Return link(z) and its bound: a relative error of eᶻ is an absolute one of z."""
    if link == "identity":
        return z, error
    if link == "logistic":
        return ACTIVATIONS[link](z), SLOPES[link] * error + FUNCTION_ERROR * U
    if link == "exp":
        p = np.exp(z)
        return p, p * (np.expm1(error) + FUNCTION_ERROR * U * np.maximum(1, np.abs(z)))
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    worst = error.max(axis=1, keepdims=True)  # of a row: in e^z, and again in their sum
    return p, p * np.expm1(2 * worst) + (FUNCTION_ERROR + z.shape[1]) * U


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
