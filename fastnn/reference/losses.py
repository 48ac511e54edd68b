"""Losses, straight from the last layer's z. `fastnn.model.losses` holds the formulas.

Each forward function writes every sample's loss (B,) and the predictions p (B, O), which may be z
itself, and each backward function the gradient of every sample's loss with respect to z (B, O).
Computing p first and the loss from it would lose it all where p underflows.
"""

import numpy as np

from fastnn.model.losses import Loss
from fastnn.reference.activations import logistic_forward


def loss_forward(
    losses: np.ndarray, p: np.ndarray, z: np.ndarray, targets: np.ndarray, loss: Loss
) -> None:
    """Write losses and predictions; targets are labels (B,) int or values (B, O)."""
    if loss.takes_labels:
        softmax_cross_entropy_forward(losses, p, z, targets)
    else:
        terms = elementwise_loss(z, targets, loss)
        predict(p, z, loss)
        losses[...] = terms.sum(axis=1)


def loss_backward(dz: np.ndarray, p: np.ndarray, targets: np.ndarray, loss: Loss) -> None:
    """Compute the gradient of each sample's loss from its predictions."""
    if loss.takes_labels:
        softmax_cross_entropy_backward(dz, p, targets)
    elif loss.name == "absolute_error":
        np.sign(p - targets, out=dz)
    elif loss.name == "huber":
        np.clip(p - targets, -1, 1, out=dz)
    else:
        np.subtract(p, targets, out=dz)


def predict(p: np.ndarray, z: np.ndarray, loss: Loss) -> None:
    """Compute ``p = link(z)``."""
    if loss.link == "softmax":
        softmax(p, z)
    elif loss.link == "logistic":
        logistic_forward(p, z)
    elif loss.link == "exp":
        np.exp(z, out=p)
    else:
        p[...] = z


def softmax_cross_entropy_forward(
    losses: np.ndarray, p: np.ndarray, z: np.ndarray, labels: np.ndarray
) -> None:
    """Compute ``log Σ exp(z - m) - (z[label] - m)`` with ``m = max z``, and the softmax.

    That is ``-log p[label]``, and finite for any finite z.
    """
    shifted = z - z.max(axis=1, keepdims=True)
    label_z = shifted[np.arange(len(labels)), labels]
    losses[...] = np.log(np.exp(shifted).sum(axis=1)) - label_z
    softmax(p, z)


def softmax(p: np.ndarray, z: np.ndarray) -> None:
    """Compute ``p = exp(z - max z) / Σ exp(z - max z)``, row by row."""
    np.exp(z - z.max(axis=1, keepdims=True), out=p)
    p /= p.sum(axis=1, keepdims=True)


def softmax_cross_entropy_backward(dz: np.ndarray, p: np.ndarray, labels: np.ndarray) -> None:
    """Compute ``dz = p - onehot(label)``."""
    dz[...] = p
    dz[np.arange(len(labels)), labels] -= 1


def elementwise_loss(z: np.ndarray, y: np.ndarray, loss: Loss) -> np.ndarray:
    """Return the loss of every output of every sample (B, O), for targets y (B, O)."""
    if loss.name == "logistic":  # log(1 + eᶻ) - y z, without the overflow of eᶻ
        return np.maximum(z, 0) - y * z + np.log1p(np.exp(-np.abs(z)))
    if loss.name == "poisson":
        apart = z - np.log(np.where(y > 0, y, 1))  # the formula's terms would lose its digits
        return np.where(y > 0, y * (np.expm1(apart) - apart), np.exp(z))
    r = z - y
    if loss.name == "absolute_error":
        return np.abs(r)
    if loss.name == "huber":
        return np.where(np.abs(r) < 1, r * r / 2, np.abs(r) - np.float32(0.5))
    return r * r / 2
