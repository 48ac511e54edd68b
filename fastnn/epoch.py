"""An epoch as an engine receives it: rows are divided into batches, batches into chunks.

A batch is the rows of one update. A chunk is at most `CHUNK_ROWS` rows of one batch, which an
engine computes together. Chunks bound the size of buffers, keep sums accurate (each chunk starts a
new float32 sum, and chunks are added in order), and let a call return to Python in the middle of a
full-batch update. Both engines use the same chunks.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from fastnn.data.rows import Data
from fastnn.model.optimizers import OPTIMIZERS, Optimizer
from fastnn.model.settings import SMALLEST_NORMAL

CHUNK_ROWS = 512
_SMALLEST = np.float32(SMALLEST_NORMAL)


@dataclass(frozen=True)
class Epoch:
    """One pass over the training data: its rows in order, and the settings of each update.

    Attributes
    ----------
    data : Data
    order : ndarray (n,), int64, contiguous
        The row number at each position of the epoch.
    batch_size : int
        Rows of a batch, 1 to n; the last batch may have fewer.
    learning_rate : float or ndarray (updates,)
        Learning rate of all updates, or of each update; it replaces the optimizer's.
    optimizer : Optimizer
    l2 : float
        Factor of the penalty ``l2 / 2 · Σ w²``, which is added to the loss of each batch.
    l2_is_shared : bool
        If true, `l2` is divided by the denominator of the batch's mean loss, as in scikit-learn.
    clip_norm : float
        Largest norm of a gradient; longer gradients are scaled down to it. 0 for no limit.
    updates_before : int
        Number of updates that the optimizer's state has seen.
    seed, number : int
        The seed and the number of the epoch, from 0, that determine the dropout masks.
    """

    data: Data
    order: np.ndarray
    batch_size: int
    learning_rate: float | np.ndarray
    optimizer: Optimizer = OPTIMIZERS["sgd"]
    l2: float = 0.0
    l2_is_shared: bool = False
    clip_norm: float = 0.0
    updates_before: int = 0
    seed: int = 0
    number: int = 0

    @property
    def updates(self) -> int:
        """Return the number of batches, which is the number of updates."""
        return -(-len(self.order) // self.batch_size)

    @cached_property
    def denominators(self) -> np.ndarray:
        """Return the denominator of each batch's mean loss, (updates,) float32.

        It is the number of rows, or the sum of their sample weights. If all of these are 0, the
        sum of the losses is 0, too, and the denominator is the smallest normal float32.
        """
        if self.data.weights is None:
            denominators = np.full(self.updates, self.batch_size, np.float32)
            denominators[-1] = len(self.order) - (self.updates - 1) * self.batch_size
            return denominators
        starts = np.arange(0, len(self.order), self.batch_size)
        weights = self.data.weights[self.order].astype(np.float64)
        denominators = np.add.reduceat(weights, starts).astype(np.float32)
        return np.maximum(denominators, _SMALLEST)

    @cached_property
    def total_weight(self) -> float:
        """Return the denominator of the epoch's mean loss: the sum of those of the batches."""
        return float(self.denominators.sum(dtype=np.float64))

    @cached_property
    def penalties(self) -> np.ndarray:
        """Return each update's factor of the l2 penalty, (updates,) float32.

        A shared penalty is 0 for a batch whose sample weights are all 0.
        """
        if not self.l2_is_shared:
            return np.full(self.updates, self.l2, np.float32)
        has_weight = self.denominators > _SMALLEST
        return (self.l2 / np.where(has_weight, self.denominators, np.inf)).astype(np.float32)

    @cached_property
    def step_sizes(self) -> np.ndarray:
        """Return each update's step size, (updates,) float32.

        It is the learning rate, for Adam multiplied by its bias correction √(1 - β₂ᵗ) / (1 - β₁ᵗ).
        """
        step_sizes = self.learning_rates.copy()
        if self.optimizer.rule == "adam":
            first = self.updates_before + 1
            t = np.arange(first, first + self.updates, dtype=np.float64)
            step_sizes *= np.sqrt(_one_minus_power(self.optimizer.beta2, t))
            step_sizes /= _one_minus_power(self.optimizer.beta1, t)
        return step_sizes.astype(np.float32)

    @cached_property
    def decays(self) -> np.ndarray:
        """Return each update's decoupled weight decay η λ, (updates,) float32."""
        return (self.learning_rates * self.optimizer.weight_decay).astype(np.float32)

    @cached_property
    def learning_rates(self) -> np.ndarray:
        """Return each update's learning rate, (updates,) float64."""
        return np.full(self.updates, self.learning_rate, np.float64)


def _one_minus_power(beta: float, t: np.ndarray) -> np.ndarray:
    """Return 1 - βᵗ, accurate even if βᵗ is close to 1."""
    return -np.expm1(t * math.log(beta)) if beta > 0 else np.ones_like(t)


class Progress(NamedTuple):
    """The position in an epoch, and the sums up to it.

    Attributes
    ----------
    position : int
        Number of positions of the epoch's order that are done.
    loss_sum : float
        Sum of the weighted losses of their rows, each computed before the update of its batch;
        and for each batch that is done, its l2 penalty times the denominator of its mean loss.
    correct : float
        Sum of the sample weights of the rows that were predicted correctly; without sample
        weights, their number.
    """

    position: int = 0
    loss_sum: float = 0.0
    correct: float = 0.0


class Chunk(NamedTuple):
    """Positions ``start`` to ``stop`` of the epoch's order.

    ``first`` and ``last`` tell whether the chunk is the first and the last of its batch.
    """

    start: int
    stop: int
    first: bool
    last: bool


def next_chunk(position: int, rows: int, batch_size: int) -> Chunk:
    """Return the chunk that starts at a position of an epoch.

    Examples
    --------
    >>> next_chunk(1512, 3000, 1000)
    Chunk(start=1512, stop=2000, first=False, last=True)
    """
    batch_start = position - position % batch_size
    batch_stop = min(batch_start + batch_size, rows)
    stop = min(position + CHUNK_ROWS, batch_stop)
    return Chunk(position, stop, position == batch_start, stop == batch_stop)
