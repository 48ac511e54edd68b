"""What a network computes, in float64, from formulas alone: no code of fastnn's.

Derivatives are taken by complex steps: f'(x) = Im f(x + ih) / h for an analytic f (Squire and
Trapp 1998). Unlike a difference that takes no difference of numbers nearly the same, so that h may
be 1e-30, where nothing is cut off, no ReLU changes sides, and what is left is float32's error.
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
    """Return the loss of every row, (B,), as `fastnn.model.losses` has it; z must not be large."""
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

    `arrays` are weights and biases in turn, complex; `activations` those of the hidden layers;
    `masks` are of every layer's inputs, with the factor of dropout in them.
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
    """Return weights and biases in turn, complex."""
    return [array.astype(np.complex128) for pair in parameters for array in pair]


def slope(array, at, direction, loss_now):
    """Return the derivative of a loss by the elements `at` of an array, along a direction."""
    array[at] += 1j * STEP * direction
    value = loss_now().imag / STEP
    array[at] = array[at].real
    return value


def gradient(array, loss_now):
    """Return the derivative of a loss by every element of an array."""
    slopes = [slope(array, at, 1, loss_now) for at in np.ndindex(array.shape)]
    return np.reshape(slopes, array.shape)
