"""Loss and gradient of a network in float64, from formulas alone, without code of fastnn.

Derivatives are computed by complex steps: f'(x) = Im f(x + ih) / h for an analytic f (Squire and
Trapp 1998). There is no cancellation, so h can be 1e-30: the truncation error is negligible, and no
ReLU input changes its sign.
"""

import numpy as np

STEP = 1e-30
ACTIVATIONS = {
    "identity": lambda z: z,
    "logistic": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
    "relu": lambda z: np.where(z.real > 0, z, 0),
    "leaky_relu": lambda z: np.where(z.real > 0, z, 0.01 * z),
    "gelu": lambda z: z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
}


def losses_of(z, y, loss):
    """Return the loss of each row, (B,); z must not be large."""
    if loss == "cross_entropy":
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        return -np.log(p[np.arange(len(y)), y])
    y = y.astype(np.float64)
    if loss == "logistic":
        p = 1 / (1 + np.exp(-z))
        return -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(axis=1)
    if loss == "poisson":
        p = np.exp(z)
        y_log_y = y * np.log(np.where(y == 0, 1, y))
        return (p - y * np.log(p) + y_log_y - y).sum(axis=1)
    r = z - y
    size = np.where(r.real < 0, -r, r)
    if loss == "absolute_error":
        return size.sum(axis=1)
    if loss == "huber":
        return np.where(size.real < 1, r**2 / 2, size - 0.5).sum(axis=1)
    return (r**2 / 2).sum(axis=1)


def mean_loss(arrays, activations, loss, data, *, input_scale=1.0, l2=0.0, masks=None):
    """Return the weighted mean loss with its penalty.

    `arrays` holds w and b of each layer, complex; `activations` are those of the hidden layers;
    `masks` are the factors of dropout of each layer's inputs.
    """
    a = data.x.astype(np.float64) * input_scale
    for i, name in enumerate([*activations, "identity"]):
        if masks is not None:
            a = a * masks[i]
        a = ACTIVATIONS[name](a @ arrays[2 * i] + arrays[2 * i + 1])
    losses = losses_of(a, data.targets, loss)
    penalty = l2 / 2 * sum((w**2).sum() for w in arrays[::2])
    weights = None if data.weights is None else data.weights.astype(np.float64)
    return np.average(losses, weights=weights) + penalty


def flat_arrays(parameters):
    """Return a list of w and b of each layer, complex."""
    return [array.astype(np.complex128) for pair in parameters for array in pair]


def slope(array, at, direction, loss_now):
    """Return the derivative of a loss with respect to ``array[at]``, along a direction."""
    array[at] += 1j * STEP * direction
    value = loss_now().imag / STEP
    array[at] = array[at].real
    return value


def gradient(array, loss_now):
    """Return the derivative of a loss with respect to each element of an array."""
    slopes = [slope(array, at, 1, loss_now) for at in np.ndindex(array.shape)]
    return np.reshape(slopes, array.shape)
