"""One training step in float64, with bounds on the errors of float32.

The bounds are computed with the values (running error analysis: Higham, Accuracy and Stability,
section 3.3). Each operation propagates the errors of its operands and adds its own rounding. If an
error may move a number across the kink of ReLU or the absolute error, the bound is the jump of the
derivative. A pair of arrays ``(value, error)`` is a value and its bound.
"""

from typing import Any, NamedTuple

import numpy as np
from formulas import ACTIVATIONS, losses_of
from tolerances import FUNCTION_ERROR, PRODUCT_BOUND, SLOPES, U

# The errors of many terms mostly cancel, like a random walk. The bound is `SPREAD` times the root
# mean square of their sum. The worst case would be hundreds of times larger, and hide mistakes.
SPREAD = 2.0
TINY = 1e-30  # smaller numbers may be 0 in float32
GELU_CURVATURE = 0.82  # bound of the second derivative of GELU: 2 / √(2π) at 0, rounded up

Bounded = tuple[np.ndarray, np.ndarray]


class Step(NamedTuple):
    """Sum of losses with its bound, lowest and largest weight of correct rows, gradients."""

    loss: tuple[float, float]
    correct: tuple[float, float]
    gradients: list[Bounded]


def product(a: Bounded, b: Bounded) -> Bounded:
    """Multiply two matrices; the errors of the terms are independent."""
    (x, x_error), (y, y_error) = a, b
    propagated = np.sqrt(x_error**2 @ y**2 + x**2 @ y_error**2 + x_error**2 @ y_error**2)
    return x @ y, SPREAD * propagated + rounding_error(x, y)


def sum_over_rows(a: Bounded, b: Bounded) -> Bounded:
    """Multiply over the rows of a batch, whose errors may be the same."""
    (x, x_error), (y, y_error) = a, b
    propagated = x_error @ (np.abs(y) + y_error) + np.abs(x) @ y_error
    return x @ y, propagated + rounding_error(x, y)


def rounding_error(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the bound of rounding the sums of a product, which grows with √K for many terms."""
    terms = min(x.shape[1] + 1, SPREAD**2 * (x.shape[1] + 1) ** 0.5)
    return PRODUCT_BOUND * terms * U * (np.abs(x) @ np.abs(y)) + TINY


def times(a: Bounded, b: Bounded) -> Bounded:
    """Multiply element by element."""
    (x, x_error), (y, y_error) = a, b
    error = x_error * (np.abs(y) + y_error) + np.abs(x) * y_error
    return x * y, error + 2 * U * np.abs(x * y) + TINY


def exactly(value: np.ndarray) -> Bounded:
    value = np.asarray(value, np.float64)
    return value, np.zeros_like(value)


def activation(name: str, z: Bounded) -> Bounded:
    value, error = z
    error = SLOPES.get(name, 1.0) * error
    if name != "identity":
        error = error + FUNCTION_ERROR * U * np.maximum(1, np.abs(value))
    return ACTIVATIONS[name](value), error


def derivative(name: str, z: Bounded, a: Bounded) -> Bounded:
    """Return the derivative of an activation; near a kink, its bound is the jump."""
    value, error = z
    a_value, a_error = a
    if name == "identity":
        return exactly(np.ones_like(value))
    if name in ("relu", "leaky_relu"):
        low = 0.01 if name == "leaky_relu" else 0.0
        slope = np.where(value > 0, 1.0, low)
        return slope, np.where(np.abs(value) <= error, 1 - low, 2 * U * low)
    if name == "tanh":
        return 1 - a_value**2, a_error * (2 * np.abs(a_value) + a_error) + 4 * U
    if name == "logistic":
        slope = a_value * (1 - a_value)
        return slope, a_error * (np.abs(1 - 2 * a_value) + a_error) + 4 * U
    t = np.tanh(np.sqrt(2 / np.pi) * (value + 0.044715 * value**3))
    du = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * value**2)
    slope = (1 + t + value * (1 - t * t) * du) / 2
    return slope, GELU_CURVATURE * error + 4 * FUNCTION_ERROR * U * np.maximum(1, np.abs(value))


def predictions(link: str, z: Bounded) -> Bounded:
    """Return predictions."""
    value, error = z
    if link == "identity":
        return z
    if link == "logistic":
        return ACTIVATIONS[link](value), SLOPES[link] * error + FUNCTION_ERROR * U
    if link == "exp":
        relative = np.expm1(error) + FUNCTION_ERROR * U * np.maximum(1, np.abs(value))
        return np.exp(value), np.exp(value) * relative
    away = value - value.max(axis=1, keepdims=True)
    p = np.exp(away)
    p /= p.sum(axis=1, keepdims=True)
    worst = error.max(axis=1, keepdims=True)  # of eᶻ and of the sum
    relative = np.expm1(2 * worst) + (FUNCTION_ERROR + len(p.T)) * U + 2 * U * np.abs(away)
    return p, p * relative + TINY


def residual(loss: Any, z: Bounded, p: Bounded, targets: np.ndarray) -> Bounded:
    """Return the gradient of each sample's loss with respect to z."""
    value, error = p
    y = np.eye(value.shape[1])[targets] if loss.takes_labels else targets.astype(np.float64)
    r, error = value - y, error + U * np.abs(value - y)
    if loss.name == "absolute_error":
        return np.sign(r), np.where(np.abs(r) <= error, 2.0, 0.0)
    return (np.clip(r, -1, 1) if loss.name == "huber" else r), error


def losses(loss: Any, z: Bounded, r: Bounded, targets: np.ndarray) -> Bounded:
    """Return each sample's loss."""
    value, error = z
    if loss.takes_labels:
        shifted = value - value.max(axis=1, keepdims=True)
        picked = shifted[np.arange(len(value)), targets]
        exact = np.log(np.exp(shifted).sum(axis=1)) - picked
        size = len(value.T) + np.abs(value).max(axis=1) + np.abs(picked)
        return exact, 2 * error.max(axis=1) + FUNCTION_ERROR * U * size
    y = np.abs(targets.astype(np.float64))
    if loss.name == "logistic":  # from z, because p may be 1
        exact = np.maximum(value, 0) - targets * value + np.log1p(np.exp(-np.abs(value)))
        exact, size = exact.sum(axis=1), (1 + 2 * np.abs(value)) * (1 + y)
    else:
        exact = losses_of(value, targets, loss.name) if loss.name != "poisson" else 0
        size = np.abs(value) + y + r[0] ** 2
        if loss.name == "poisson":  # from z, because p may be 0
            log_y = np.log(np.where(y > 0, y, 1))
            exact = (np.exp(value) - y * value + y * log_y - y).sum(axis=1)
            size = np.exp(value) + y * (1 + np.abs(value - log_y)) + np.abs(value)
    steep = np.abs(r[0]) + r[1] + (np.exp(value) if loss.name == "poisson" else 1) * error
    own = FUNCTION_ERROR * U * (size + value.shape[1] * np.abs(exact)[:, None])
    return exact, (error * steep + own).sum(axis=1)


def correct_rows(loss: Any, z: Bounded, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows are certainly correct, and which may be."""
    value, error = z
    if loss.takes_labels:
        at = np.arange(len(value)), targets
        others_high, others_low = value + error, value - error
        others_high[at], others_low[at] = -np.inf, -np.inf
        own, own_error = value[at], error[at]
        return (own - own_error > others_high.max(axis=1),
                own + own_error >= others_low.max(axis=1))  # fmt: skip
    if loss.score != "accuracy":
        return np.zeros(len(value), bool), np.zeros(len(value), bool)
    correct, certain = (value > 0) == (targets > 0.5), np.abs(value) > error
    return (correct & certain).all(axis=1), (correct | ~certain).all(axis=1)


def forward(layers, scale, parameters, x, masks=None, error=0.0) -> tuple[list[Bounded], ...]:
    """Return the inputs, z and outputs of all layers; `error` is the bound of the features."""
    x = np.asarray(x, np.float64) * np.float64(np.float32(scale))
    a: Bounded = x, U * np.abs(x) + error * scale
    inputs, zs, outputs = [], [], []
    for i, (layer, (w, b)) in enumerate(zip(layers, parameters, strict=True)):
        if masks is not None and masks[i] is not None:
            a = times(a, exactly(masks[i]))
        inputs.append(a)
        # The bias is the weight of an input of 1.
        with_one = np.column_stack([a[0], np.ones(len(x))]), np.column_stack([a[1], 0 * x[:, 0]])
        zs.append(product(with_one, exactly(np.vstack([w, b]))))
        a = activation(layer.activation, zs[-1])
        outputs.append(a)
    return inputs, zs, outputs


def predict(layers, loss, scale, parameters, x, error=0.0) -> Bounded:
    """Return predictions (rows, O); `error` is the bound of the features."""
    return predictions(loss.link, forward(layers, scale, parameters, x, error=error)[1][-1])


def step(layers, loss, scale, parameters, data, *, norm, l2=0.0, masks=None) -> Step:
    """Compute a step on all rows of `data`, whose features are an array.

    `masks` are the factors of dropout of each layer's inputs, or None. `norm` and `l2` are exact;
    the bounds include their rounding.
    """
    inputs, zs, outputs = forward(layers, scale, parameters, data.x, masks)
    z, rows = zs[-1], len(data.x)
    weights = [exactly(w) for w, _ in parameters]
    p = predictions(loss.link, z)
    r = residual(loss, z, p, data.targets)
    each, each_error = losses(loss, z, r, data.targets)
    w = np.ones(rows) if data.weights is None else data.weights.astype(np.float64)
    total, total_error = each @ w, each_error @ w + 4 * U * (np.abs(each) @ w) + TINY
    share = np.broadcast_to((w / norm if norm > 0 else 0 * w)[:, None], r[0].shape)
    dz = times(r, (share, U * share))
    gradients: list[Bounded] = []
    for i in reversed(range(len(layers))):
        ones = exactly(np.ones((1, rows)))
        db = sum_over_rows(ones, dz)
        dw = sum_over_rows((inputs[i][0].T, inputs[i][1].T), dz)
        if l2:
            added = l2 * weights[i][0]
            dw = dw[0] + added, dw[1] + 4 * U * np.abs(added) + 2 * U * np.abs(dw[0])
        gradients[:0] = [dw, (db[0][0], db[1][0])]
        if i > 0:
            da = product(dz, (weights[i][0].T, weights[i][1].T))
            if masks is not None and masks[i] is not None:
                da = times(da, exactly(masks[i]))
            name = layers[i - 1].activation
            dz = times(da, derivative(name, zs[i - 1], outputs[i - 1]))
    if l2:
        penalty = l2 / 2 * sum((each[0] ** 2).sum() for each in weights) * norm
        total, total_error = total + penalty, total_error + 1e-5 * penalty
    low, high = (np.asarray(each) @ w for each in correct_rows(loss, z, data.targets))
    return Step((total, total_error), (low, high), gradients)


# ---- updates ----------------------------------------------------------------------------------


def clip(gradients: list[Bounded], clip_norm: float) -> list[Bounded]:
    """Clip the norm of a gradient."""
    norm = np.sqrt(sum((g**2).sum() for g, _ in gradients))
    error = np.sqrt(sum((e**2).sum() for _, e in gradients))
    error += 8 * U * norm * np.sqrt(max(g.size for g, _ in gradients))
    low = min(1.0, clip_norm / max(norm + error, TINY))
    high = min(1.0, clip_norm / max(norm - error, TINY))
    middle = np.full(1, (low + high) / 2), np.full(1, (high - low) / 2)
    return [times(each, middle) for each in gradients]


def update(w, state, gradient: Bounded, rate, decay, optimizer) -> list[Bounded]:
    """Return a parameter and its state after an update, by the equations of the optimizer.

    `rate` and `decay` are exact; the bounds include their rounding.
    """
    g, error = gradient
    w = w.astype(np.float64)
    decayed = w - decay * w
    rounding = 4 * U * np.abs(w) + TINY
    step = rate * g, rate * error + 2 * U * np.abs(rate * g)
    if optimizer.rule == "sgd":
        return [(decayed - step[0], step[1] + rounding + 2 * U * np.abs(step[0]))]
    if optimizer.rule == "momentum":
        momentum = np.float64(np.float32(optimizer.momentum))
        old = momentum * state[0].astype(np.float64)
        u = old - step[0]
        u_error = step[1] + 3 * U * (np.abs(old) + np.abs(step[0])) + TINY
        move, move_error = u, u_error
        if optimizer.nesterov:
            move = momentum * u - step[0]
            move_error = momentum * u_error + step[1] + 3 * U * (np.abs(u) + np.abs(step[0]))
        return [(decayed + move, move_error + rounding + 2 * U * np.abs(move)), (u, u_error)]
    (b1, r1), (b2, r2) = ((np.float64(np.float32(b)), np.float64(np.float32(1 - b)))
                          for b in (optimizer.beta1, optimizer.beta2))  # fmt: skip
    m, v = (each.astype(np.float64) for each in state)
    m_error = r1 * error + 3 * U * (np.abs(b1 * m) + np.abs(r1 * g)) + TINY
    m, v = b1 * m + r1 * g, b2 * v + r2 * g * g
    v_error = r2 * error * (2 * np.abs(g) + error) + 6 * U * v + 1e-37
    eps = np.float64(np.float32(optimizer.eps))
    low, high = (np.sqrt(np.maximum(v + sign * v_error, 0)) + eps for sign in (-1, 1))
    ends = [(m + sign * m_error) / by for sign in (-1, 1) for by in (low, high)]
    lowest, highest = np.minimum.reduce(ends), np.maximum.reduce(ends)
    middle = rate * (lowest + highest) / 2
    largest = np.maximum(np.abs(lowest), np.abs(highest))
    spread = rate * (highest - lowest) / 2 + 9 * U * rate * largest
    return [(decayed - middle, spread + rounding), (m, m_error), (v, v_error)]
