"""Losses, computed from the last layer's z. `fastnn.model.losses` has the formulas.

A forward function writes the loss of each sample (B,) and the predictions p (B, O), for B samples
and O outputs; p may be the array z. A backward function writes the gradient of each sample's loss
with respect to z (B, O). The loss is computed from z, because p may underflow.
"""

import numpy as np

from fastnn.model.losses import Loss
from fastnn.reference.activations import logistic_forward


def loss_forward(
    losses: np.ndarray, p: np.ndarray, z: np.ndarray, targets: np.ndarray, loss: Loss
) -> None:
    """Write losses and predictions. Targets are labels (B,) int32 or values (B, O) float32."""
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
    """Compute ``losses = log Σ exp(z - m) - (z[label] - m)`` with ``m = max z``, and softmax p.

    This equals ``-log p[label]``, and is finite for all finite z.
    """
    shifted = z - z.max(axis=1, keepdims=True)
    label_z = shifted[np.arange(len(labels)), labels]
    losses[...] = np.log(np.exp(shifted).sum(axis=1)) - label_z
    softmax(p, z)


def softmax(p: np.ndarray, z: np.ndarray) -> None:
    """Compute ``p = exp(z - max z) / Σ exp(z - max z)`` in each row."""
    np.exp(z - z.max(axis=1, keepdims=True), out=p)
    p /= p.sum(axis=1, keepdims=True)


def softmax_cross_entropy_backward(dz: np.ndarray, p: np.ndarray, labels: np.ndarray) -> None:
    """Compute ``dz = p - onehot(label)``."""
    dz[...] = p
    dz[np.arange(len(labels)), labels] -= 1


def elementwise_loss(z: np.ndarray, y: np.ndarray, loss: Loss) -> np.ndarray:
    """Return the loss of each output of each sample (B, O), for targets y (B, O)."""
    if loss.name == "logistic":  # log(1 + eᶻ) - y z without overflow
        return np.maximum(z, 0) - y * z + np.log1p(np.exp(-np.abs(z)))
    if loss.name == "poisson":
        d = z - np.log(np.where(y > 0, y, 1))  # y (eᵈ - 1 - d) cancels less near p = y
        return np.where(y > 0, y * (np.expm1(d) - d), np.exp(z))
    r = z - y
    if loss.name == "absolute_error":
        return np.abs(r)
    if loss.name == "huber":
        return np.where(np.abs(r) < 1, r * r / 2, np.abs(r) - np.float32(0.5))
    return r * r / 2
