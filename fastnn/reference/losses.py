"""Softmax with categorical cross-entropy, straight from the logits.

With ``p = softmax(z)`` and label ``y`` the loss of a sample is ``-log p[y]``. Computing ``p``
first would lose it all where p[y] underflows; ``log Σ exp(z - m) - (z[y] - m)`` with
``m = max z`` is the same number and is finite for any finite logits.
"""

import numpy as np


def softmax_cross_entropy_forward(
    losses: np.ndarray, probs: np.ndarray, logits: np.ndarray, labels: np.ndarray
) -> None:
    """Write each sample's loss (B,) and class probabilities (B, O); labels are (B,) int."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    softmax(probs, logits)
    label_logit = shifted[np.arange(len(labels)), labels]
    losses[...] = np.log(np.exp(shifted).sum(axis=1)) - label_logit


def softmax(probs: np.ndarray, logits: np.ndarray) -> None:
    """Compute ``probs = exp(z - max z) / Σ exp(z - max z)``, row by row."""
    np.exp(logits - logits.max(axis=1, keepdims=True), out=probs)
    probs /= probs.sum(axis=1, keepdims=True)


def softmax_cross_entropy_backward(
    dz: np.ndarray, probs: np.ndarray, labels: np.ndarray, batch_rows: int
) -> None:
    """Compute ``dz = (p - onehot(y)) / batch_rows``: the gradient of the batch's mean loss."""
    dz[...] = probs
    dz[np.arange(len(labels)), labels] -= 1
    dz /= batch_rows
