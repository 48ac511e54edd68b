"""The settings of an update, computed in float64 from those of the fit.

Norms, penalties, learning rates, weight decays and dropout masks, by the documented equations and
without code of fastnn, so that mistakes in `fastnn.epoch.Epoch` are found. An engine rounds these
numbers to float32; the bounds of `exact_step` include that.
"""

import math
from typing import Any, NamedTuple

import numpy as np


class Update(NamedTuple):
    """Norm, penalty, learning rate and weight decay of an update."""

    norm: float
    l2: float
    rate: float
    decay: float


def update_of(epoch: Any, fit: Any, number: int) -> Update:
    """Return the settings of update `number`, from 0.

    Parameters
    ----------
    epoch
        With `order`, `batch_size`, `data.weights`, `optimizer`, `l2`, `l2_is_shared` and
        `updates_before`.
    fit
        With `learning_rate`, `schedule`, `epoch` of `epochs` and `samples_seen`.
    """
    order, size, optimizer = epoch.order, epoch.batch_size, epoch.optimizer
    rows = order[number * size : (number + 1) * size]
    weights = epoch.data.weights
    norm = len(rows) if weights is None else math.fsum(weights[rows].tolist())
    l2 = epoch.l2
    if epoch.l2_is_shared:
        l2 = l2 / norm if norm > 0 else 0.0
    learning_rate = scheduled(fit, number, -(-len(order) // size))
    rate, t = learning_rate, epoch.updates_before + number + 1
    if optimizer.rule == "adam":
        rate *= math.sqrt(1 - optimizer.beta2**t) / (1 - optimizer.beta1**t)
    return Update(norm, l2, rate, learning_rate * optimizer.weight_decay)


def scheduled(fit: Any, number: int, updates: int) -> float:
    """Return the learning rate of an update, by the equations of the schedules."""
    name, rate = fit.schedule.name, fit.learning_rate
    t, total = fit.epoch * updates + number, fit.epochs * updates
    if name == "invscaling":
        rate /= (fit.samples_seen + 1) ** fit.schedule.power_t
    elif name == "cosine":
        rate *= (1 + math.cos(math.pi * t / total)) / 2
    elif name == "one_cycle":
        peak = max(1.0, 0.3 * total)
        if t < peak:
            rate = half_cosine(rate / 25, rate, t / peak)
        else:
            rate = half_cosine(rate, rate / 250_000, (t - peak) / max(1.0, total - 1 - peak))
    warmup = fit.schedule.warmup_epochs * updates
    return rate * (t + 1) / warmup if t + 1 < warmup else rate


def half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


# ---- dropout --------------------------------------------------------------------------------


def mask(epoch: Any, layer: int, positions: np.ndarray, width: int, dropout: float) -> np.ndarray:
    """Return the factors of a layer's inputs, (rows, width): 0, or the factor of kept inputs.

    Column c depends on 16 bits of the counter 8 · (c // 64) + c % 8: number c % 64 // 8 of the
    eight numbers in its four words.
    """
    level = max(1, round((1 - dropout) * 65_536))
    c = np.arange(width, dtype=np.uint64)
    counter = np.broadcast_arrays(
        8 * (c // 64) + c % 8, positions.astype(np.uint64)[:, None],
        np.uint64(epoch.number), np.uint64(layer),
    )  # fmt: skip
    words = np.stack(philox_4x32(counter, epoch.seed & 0xFFFFFFFF, epoch.seed >> 32))
    number = (c % 64 // 8).astype(int)
    word = np.take_along_axis(words, np.broadcast_to(number // 2, words.shape[1:])[None], 0)[0]
    bits = word >> (16 * (number % 2)).astype(np.uint64) & np.uint64(0xFFFF)
    return np.where(bits < level, np.float64(np.float32(65_536 / level)), 0.0)


def philox_4x32(counter: Any, key_0: int, key_1: int) -> list[np.ndarray]:
    """Return the four words of Philox-4x32-10 (Salmon et al. 2011)."""
    a, b, c, d = counter
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(10):
        ac, ca = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b = ca >> shift ^ b ^ np.uint64(key_0), ca & low
        c, d = ac >> shift ^ d ^ np.uint64(key_1), ac & low
        key_0, key_1 = (key_0 + 0x9E3779B9) & 0xFFFFFFFF, (key_1 + 0xBB67AE85) & 0xFFFFFFFF
    return [a, b, c, d]
