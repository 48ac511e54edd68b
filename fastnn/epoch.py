"""How an epoch is cut: rows into batches, batches into chunks. Both engines follow this cut.

A batch is what one update learns from. A chunk is what an engine computes at a time: at most
`CHUNK_ROWS` rows of one batch, so that buffers do not grow with the batch, sums over it stay
accurate (every chunk starts a new float32 sum, and the chunks are added in order), and control
can return to Python in the middle of a full-batch update.
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
_SMALLEST_NORM = np.float32(SMALLEST_NORMAL)  # what is smaller counts as 0


@dataclass(frozen=True)
class Epoch:
    """One pass over the data, as an engine takes it.

    Attributes
    ----------
    data : Data
    order : ndarray (n,), int64, contiguous
        The row that each position of the epoch visits.
    batch_size : int
        1 to n; the last batch takes what is left.
    learning_rate : float or ndarray (updates,)
    optimizer : Optimizer
        Its own learning rate does not count.
    l2 : float
        ``l2 / 2 · Σ w²`` is added to the loss of a batch.
    l2_is_shared : bool
        The rows of a batch share the penalty, which is divided by their number, or weight.
    clip_norm : float
        A gradient that is longer than this is shortened to it; 0 for never.
    updates_before : int
        Updates that the optimizer's state has seen.
    seed, number : int
        What the dropout masks depend on; the number is the epoch's, from 0.
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
        """Number of batches, which is the number of updates."""
        return -(-len(self.order) // self.batch_size)

    @cached_property
    def norms(self) -> np.ndarray:
        """What each batch's sums are divided by, to be means: (updates,) float32.

        That is its number of rows, or the sum of their weights; where that is 0, so are the
        sums, and it is the smallest number by which they can be divided.
        """
        if self.data.weights is None:
            norms = np.full(self.updates, self.batch_size, np.float32)
            norms[-1] = len(self.order) - (self.updates - 1) * self.batch_size
            return norms
        starts = np.arange(0, len(self.order), self.batch_size)
        weights = self.data.weights[self.order].astype(np.float64)
        norms = np.add.reduceat(weights, starts).astype(np.float32)
        return np.maximum(norms, _SMALLEST_NORM)

    @cached_property
    def total_weight(self) -> float:
        """Sum of all norms: what the epoch's sum of losses is divided by."""
        return float(self.norms.sum(dtype=np.float64))

    @cached_property
    def penalties(self) -> np.ndarray:
        """What each update has for l2, (updates,) float32; none where no row could share it."""
        if not self.l2_is_shared:
            return np.full(self.updates, self.l2, np.float32)
        shared = self.norms > _SMALLEST_NORM
        return np.where(shared, self.l2 / np.where(shared, self.norms, 1), 0).astype(np.float32)

    @cached_property
    def rates(self) -> np.ndarray:
        """What each update multiplies its direction by, (updates,) float32.

        That is the learning rate, and for Adam with it the correction of the bias towards the
        zero start: √(1 - β₂ᵗ) / (1 - β₁ᵗ).
        """
        rates = self.learning_rates.copy()
        if self.optimizer.rule == "adam":
            first = self.updates_before + 1
            t = np.arange(first, first + self.updates, dtype=np.float64)
            rates *= np.sqrt(_unbiased(self.optimizer.beta2, t))
            rates /= _unbiased(self.optimizer.beta1, t)
        return rates.astype(np.float32)

    @cached_property
    def decays(self) -> np.ndarray:
        """What each update takes off the weights, (updates,) float32."""
        return (self.learning_rates * self.optimizer.weight_decay).astype(np.float32)

    @cached_property
    def learning_rates(self) -> np.ndarray:
        """Each update's learning rate, (updates,) float64."""
        return np.full(self.updates, self.learning_rate, np.float64)


def _unbiased(beta: float, t: np.ndarray) -> np.ndarray:
    """Return 1 - βᵗ, exact too where βᵗ is close to 1."""
    return -np.expm1(t * math.log(beta)) if beta > 0 else np.ones_like(t)


class Progress(NamedTuple):
    """How far an epoch has come: the value that an engine takes and returns.

    Attributes
    ----------
    position : int
        Rows of the epoch's order that are done.
    loss_sum : float
        Sum of their losses times their weights, each measured before the update of its batch.
    correct : float
        Sum of the weights, 1 where there are none, of those that were predicted right.
    """

    position: int = 0
    loss_sum: float = 0.0
    correct: float = 0.0


class Chunk(NamedTuple):
    """The next piece of work: positions ``start`` to ``stop`` of the epoch's order.

    ``first`` and ``last`` say whether it opens and closes its batch of ``batch_rows`` rows.
    """

    start: int
    stop: int
    batch_rows: int
    first: bool
    last: bool


def next_chunk(position: int, rows: int, batch_size: int) -> Chunk:
    """Return the chunk that starts at a position of an epoch of the given number of rows.

    Examples
    --------
    >>> next_chunk(1512, 3000, 1000)
    Chunk(start=1512, stop=2000, batch_rows=1000, first=False, last=True)
    """
    batch_start = position - position % batch_size
    batch_stop = min(batch_start + batch_size, rows)
    stop = min(position + CHUNK_ROWS, batch_stop)
    return Chunk(
        position, stop, batch_stop - batch_start, position == batch_start, stop == batch_stop
    )
