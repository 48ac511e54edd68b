"""The sizes of network and data that are timed, one of them doubled at a time."""

from dataclasses import dataclass, replace

import numpy as np
from epoch_cases import SEED, Trainer, assert_close
from measuring import flops_per_sample

from fastnn.model.initializers import he_normal
from fastnn.model.layers import Dense, dense_layers
from fastnn.model.optimizers import get_optimizer
from fastnn.network import Network

INPUTS, CLASSES = 256, 10

PROVEN_UPDATES = 5
UPDATE_TOLERANCE = 1e-5  # as in `epoch_cases`


@dataclass(frozen=True)
class Size:
    """Rows, hidden layers (`depth`), units per hidden layer (`width`) and rows per batch."""

    samples: int = 16_384
    width: int = 128
    depth: int = 2
    batch: int = 128

    @property
    def layers(self) -> tuple[Dense, ...]:
        """The network's layers."""
        return tuple(dense_layers([INPUTS, *[self.width] * self.depth, CLASSES]))

    @property
    def flops(self) -> int:
        """Operations per epoch."""
        return self.samples * flops_per_sample(self.layers)


BASE = Size()
DOUBLINGS = {
    "samples": (4_096, 8_192, 16_384, 32_768),
    "width": (64, 128, 256, 512),
    "depth": (1, 2, 4, 8),
    "batch": (32, 64, 128, 256),
}
CASES = [(what, replace(BASE, **{what: n})) for what, ns in DOUBLINGS.items() for n in ns]


class SizeTrainer(Trainer):
    """An engine for a size, ready to train on nonzero random numbers."""

    def __init__(self, engine: str, size: Size) -> None:
        rng = np.random.default_rng(SEED)
        layers = size.layers
        network = Network([INPUTS, *(layer.outputs for layer in layers)], seed=SEED)
        network.parameters = he_normal(layers, SEED)
        x = rng.standard_normal((size.samples, INPUTS), np.float32)
        y = rng.integers(0, CLASSES, size.samples, np.int32)
        self._prepare(network, engine, None, x, y)
        self.batch_rows = size.batch
        self.optimizer = get_optimizer("sgd")


def proven(size: Size) -> Trainer:
    """Return a size's trainer with its initial weights, if it agrees with the reference engine.

    Raises
    ------
    AssertionError
        If a loss of the first updates differs by more than rounding.
    """
    trainer, twin = SizeTrainer("numba", size), SizeTrainer("numpy", size)
    assert_close(trainer.losses(PROVEN_UPDATES), twin.losses(PROVEN_UPDATES), UPDATE_TOLERANCE)
    trainer.reset()
    return trainer
