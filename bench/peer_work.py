"""What every peer is given: a case, its data, the initial weights, the orders; and the clock."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from mnist_like import find_or_imitate

from fastnn.commands.machine import flops_per_sample
from fastnn.data.sets import Dataset
from fastnn.model.initializers import he_normal
from fastnn.model.layers import Parameters, dense_layers
from fastnn.model.randomness import permutation

SEED = 0

Epochs = Iterator[tuple[float, float]]  # mean loss and seconds of each


@dataclass(frozen=True)
class Case:
    """What is trained: layer sizes, rows of a batch (None: all), and how many rows of what.

    Without `rows` it is MNIST; else so many rows of dense random numbers, none of them zero.
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
        """Operations that training takes for a row."""
        return flops_per_sample(dense_layers(self.sizes))

    @property
    def learning_rate(self) -> float:
        """Small enough for random labels to be learned without leaps."""
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
        """Return the data: found, imitated or drawn."""
        if self.rows is None:
            return find_or_imitate()
        rng = np.random.default_rng(SEED)
        x = rng.standard_normal((self.rows, self.sizes[0]), np.float32)
        y = rng.integers(0, self.sizes[-1], self.rows, np.int32)
        return Dataset("dense", x, y, x[:0], y[:0], 1.0, "a generator", None, self.sizes[-1])


@dataclass(frozen=True)
class Work:
    """What a peer is to do."""

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
        """Rows that an update learns from."""
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
        """The rows in the order in which an epoch, counted from 0, visits them."""
        return permutation(SEED, epoch, self.rows)


def timed(run_epoch: Callable[[Any], float], orders: list[Any]) -> Epochs:
    """Run an epoch for each order and time it."""
    for order in orders:
        start = time.perf_counter()
        loss = run_epoch(order)
        yield loss, time.perf_counter() - start
