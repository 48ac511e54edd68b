"""The input of every peer: a case, its data, initial weights and row orders; and the timer."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from measuring import flops_per_sample
from mnist_like import find_or_imitate

from fastnn.data.sets import Dataset
from fastnn.model.initializers import he_normal
from fastnn.model.layers import Parameters, dense_layers
from fastnn.model.randomness import permutation

SEED = 0

Epochs = Iterator[tuple[float, float]]  # mean loss and seconds of each


@dataclass(frozen=True)
class Case:
    """Layer sizes, rows per batch (None: all) and the data of a training.

    The data are MNIST if `rows` is None, otherwise that number of rows of nonzero random numbers.
    """

    sizes: tuple[int, ...]
    batch_size: int | None
    rows: int | None = None

    @property
    def shape(self) -> str:
        """The layer sizes in words."""
        return "-".join(map(str, self.sizes))

    @property
    def batch(self) -> str:
        """The batch size in words."""
        return "full batch" if self.batch_size is None else f"batch {self.batch_size}"

    @property
    def flops_per_sample(self) -> int:
        """Operations per training row."""
        return flops_per_sample(dense_layers(self.sizes))

    @property
    def learning_rate(self) -> float:
        """The learning rate, small enough for a smooth loss with random labels."""
        return 0.1 if self.rows is None else 0.01

    def to_json(self) -> str:
        """Return the case as text, for another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Case":
        """Return the case that `to_json` wrote."""
        fields = json.loads(text)
        return cls(tuple(fields["sizes"]), fields["batch_size"], fields["rows"])

    def data(self) -> Dataset:
        """Return the data: MNIST, its imitation or random numbers."""
        if self.rows is None:
            return find_or_imitate()
        rng = np.random.default_rng(SEED)
        x = rng.standard_normal((self.rows, self.sizes[0]), np.float32)
        y = rng.integers(0, self.sizes[-1], self.rows, np.int32)
        return Dataset("dense", x, y, x[:0], y[:0], 1.0, "a generator", None, self.sizes[-1])


@dataclass(frozen=True)
class Work:
    """The task of a peer."""

    case: Case
    data: Dataset
    epochs: int
    threads: int

    @property
    def rows(self) -> int:
        """Training rows."""
        return len(self.data.x_train)

    @property
    def batch_rows(self) -> int:
        """Rows per update."""
        return min(self.rows, self.case.batch_size or self.rows)

    @cached_property
    def x(self) -> np.ndarray:
        """The features, float32 and scaled as both engines scale them."""
        return np.multiply(self.data.x_train, np.float32(self.data.scale), dtype=np.float32)

    @property
    def parameters(self) -> Parameters:
        """The initial weights."""
        return he_normal(dense_layers(self.case.sizes), SEED)

    def order(self, epoch: int) -> np.ndarray:
        """Return the order of the rows in an epoch, counted from 0."""
        return permutation(SEED, epoch, self.rows)


def timed(run_epoch: Callable[[Any], float], orders: list[Any]) -> Epochs:
    """Run and time an epoch for each order."""
    for order in orders:
        start = time.perf_counter()
        loss = run_epoch(order)
        yield loss, time.perf_counter() - start
