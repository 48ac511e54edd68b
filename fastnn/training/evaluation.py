"""Evaluate a network: its loss, and its accuracy or R²."""

import numpy as np

from fastnn.data.rows import Data
from fastnn.engine import Engine
from fastnn.model.losses import Loss


def evaluate(engine: Engine, data: Data, loss: Loss) -> tuple[float, float]:
    """Return the mean loss on some rows, and the accuracy or, for a regression, R²."""
    value, accuracy = engine.evaluate(data)
    return value, accuracy if loss.score == "accuracy" else r2(engine.predict(data.x), data)


def r2(predicted: np.ndarray, data: Data) -> float:
    """Return 1 - Σ (y - p)² / Σ (y - ȳ)², weighted by rows and averaged over outputs.

    An output whose targets are all equal counts as 1 if every prediction is exact, else as 0.
    """
    y, p = data.targets.astype(np.float64), predicted.astype(np.float64)
    residual = np.average((y - p) ** 2, axis=0, weights=data.weights)
    mean = np.average(y, axis=0, weights=data.weights)
    variance = np.average((y - mean) ** 2, axis=0, weights=data.weights)
    explained = 1 - residual / np.where(variance > 0, variance, 1)
    return float(np.where(variance > 0, explained, residual == 0).mean())
