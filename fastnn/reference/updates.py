"""Update rules: how a parameter follows its gradient, as `fastnn.model.optimizers` says.

Parameters ``w``, gradients ``dw`` and state have one shape; all but ``dw`` are updated in place.
"""

import numpy as np


def add_l2(dw: np.ndarray, w: np.ndarray, l2: float) -> None:
    """Add the gradient of ``l2 / 2 · Σ w²``."""
    dw += np.float32(l2) * w


def clip_gradient(gradients: list[np.ndarray], clip_norm: float) -> None:
    """Shorten a gradient to a length: ``dw = dw · min(1, clip_norm / √Σ dw²)`` over all of it.

    (Pascanu, Mikolov and Bengio 2013.)
    """
    norm = np.sqrt(sum(float(np.sum(dw * dw, dtype=np.float64)) for dw in gradients))
    if norm > clip_norm:
        shrink = clip_norm / norm if np.isfinite(norm) else np.nan  # divergence, and seen as it
        for dw in gradients:
            dw *= np.float32(shrink)


def decay_weights(w: np.ndarray, decay: np.float32) -> None:
    """Take a part off the weights, whatever their gradient."""
    w -= decay * w


def sgd_update(w: np.ndarray, dw: np.ndarray, rate: np.float32) -> None:
    """Step down the gradient: ``w = w - rate · dw``."""
    w -= rate * dw


def momentum_update(
    w: np.ndarray, u: np.ndarray, dw: np.ndarray, rate: np.float32, momentum: float, nesterov: bool
) -> None:
    """Step along the velocity: ``u = momentum · u - rate · dw``, ``w = w + u``.

    Nesterov's looks one step ahead: ``w = w + momentum · u - rate · dw``.
    """
    step = -rate * dw
    u *= np.float32(momentum)
    u += step
    w += np.float32(momentum) * u + step if nesterov else u


def adam_update(
    w: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    dw: np.ndarray,
    rate: np.float32,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """Step along the mean gradient, by the root of its mean square.

    ``m = β₁ m + (1 - β₁) dw``, ``v = β₂ v + (1 - β₂) dw²``, ``w = w - rate · m / (√v + ε)``; the
    correction of m's and v's zero start is in the rate.
    """
    m *= np.float32(beta1)
    m += np.float32(1 - beta1) * dw
    v *= np.float32(beta2)
    v += np.float32(1 - beta2) * (dw * dw)
    w -= rate * (m / (np.sqrt(v) + np.float32(eps)))
