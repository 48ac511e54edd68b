"""Update rules of the optimizers; `fastnn.Optimizer` has the equations and their sources.

A parameter ``w``, its gradient ``dw`` and its state arrays have the same shape. The functions
update parameter and state in place. ``rate`` is the step size of `fastnn.epoch.Epoch.step_sizes`.
"""

import numpy as np


def add_l2(dw: np.ndarray, w: np.ndarray, l2: float) -> None:
    """Add the gradient of ``l2 / 2 · Σ w²``: ``dw = dw + l2 · w``."""
    dw += np.float32(l2) * w


def clip_gradient(gradients: list[np.ndarray], clip_norm: float) -> None:
    """Clip the norm of a gradient: ``dw = dw · min(1, clip_norm / √Σ dw²)``.

    The sum is over all gradients (Pascanu, Mikolov and Bengio 2013).
    """
    norm = np.sqrt(sum(float(np.sum(dw * dw, dtype=np.float64)) for dw in gradients))
    if norm > clip_norm:
        factor = clip_norm / norm if np.isfinite(norm) else np.nan  # NaN shows the divergence
        for dw in gradients:
            dw *= np.float32(factor)


def decay_weights(w: np.ndarray, decay: np.float32) -> None:
    """Apply decoupled weight decay: ``w = w - decay · w``."""
    w -= decay * w


def sgd_update(w: np.ndarray, dw: np.ndarray, rate: np.float32) -> None:
    """Compute ``w = w - rate · dw``."""
    w -= rate * dw


def momentum_update(
    w: np.ndarray, u: np.ndarray, dw: np.ndarray, rate: np.float32, momentum: float, nesterov: bool
) -> None:
    """Compute ``u = momentum · u - rate · dw`` and ``w = w + u``.

    Nesterov's form computes ``w = w + momentum · u - rate · dw`` instead.
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
    """Compute ``m = β₁ m + (1 - β₁) dw``, ``v = β₂ v + (1 - β₂) dw²`` and then w.

    ``w = w - rate · m / (√v + ε)``; the bias correction is part of the rate.
    """
    m *= np.float32(beta1)
    m += np.float32(1 - beta1) * dw
    v *= np.float32(beta2)
    v += np.float32(1 - beta2) * (dw * dw)
    w -= rate * (m / (np.sqrt(v) + np.float32(eps)))
