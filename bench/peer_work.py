"""What every peer is given: the data, the initial weights, the orders; and the clock."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fastnn.datasets import Dataset
from fastnn.initializers import he_normal
from fastnn.layers import Parameters, dense_layers
from fastnn.randomness import permutation

SIZES = (784, 128, 64, 10)
LEARNING_RATE = 0.1
SEED = 0

Epochs = Iterator[tuple[float, float]]  # mean loss and seconds of each


@dataclass(frozen=True)
class Work:
    """What a peer is to do; a batch size of None is all rows."""

    data: Dataset
    batch_size: int | None
    epochs: int
    threads: int

    @property
    def rows(self) -> int:
        """Training rows."""
        return len(self.data.x_train)

    @property
    def batch_rows(self) -> int:
        """Rows that an update learns from."""
        return min(self.rows, self.batch_size or self.rows)

    @cached_property
    def x(self) -> np.ndarray:
        """The features, float32 and scaled as both engines scale them."""
        return np.multiply(self.data.x_train, np.float32(self.data.scale), dtype=np.float32)

    @property
    def parameters(self) -> Parameters:
        """The initial weights."""
        return he_normal(dense_layers(SIZES), SEED)

    def order(self, epoch: int) -> np.ndarray:
        """The rows in the order in which an epoch, counted from 0, visits them."""
        return permutation(SEED, epoch, self.rows)


def timed(run_epoch: Callable[[Any], float], orders: list[Any]) -> Epochs:
    """Run an epoch for each order and time it."""
    for order in orders:
        start = time.perf_counter()
        loss = run_epoch(order)
        yield loss, time.perf_counter() - start
