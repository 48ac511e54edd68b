"""The epochs that are timed, and the check that each one trains correctly."""

from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from fastnn.data.sets import Dataset
from fastnn.epoch import Epoch, Progress
from fastnn.model.initializers import he_normal
from fastnn.model.layers import dense_layers
from fastnn.model.optimizers import OPTIMIZERS, get_optimizer
from fastnn.model.randomness import permutation
from fastnn.network import Network
from fastnn.training.fit import Fit
from fastnn.training.loop import train
from fastnn.training.plan import Plan
from fastnn.training.preparation import prepare
from fastnn.training.state import Position

SIZES = [784, 128, 64, 10]
LAYERS = dense_layers(SIZES)
SEED = 0
DROPOUT = 0.2, 0.05, 0.05  # of the recipe for MNIST in fastnn/guide/training.md

# The engines round differently, by about 1e-7 of a loss. The difference can change the sign of a
# ReLU's input for one sample, and then the weights drift apart. For six seeds, the losses of the
# first 100 updates on MNIST agreed within 3e-7 and the first epoch's mean loss within 2e-5.
PROVEN_UPDATES = {128: 100, None: 5}  # by batch size; None is the full batch
UPDATE_TOLERANCE = 1e-5
EPOCH_TOLERANCE = 1e-4
# Adam's steps do not shrink with the gradient. If a rounding error activates a unit that had no
# gradient so far, all weights of the unit change: runs whose initial weights differed in the last
# bit agreed to 3e-7 for 100 updates, or differed by 9e-3 in a loss after the 47th.
ADAM_UPDATES, ADAM_EPOCH_TOLERANCE = 25, 5e-3
# Momentum extends such a drift over ten updates: on one processor the 39th loss differed by 1.4e-5.
MOMENTUM_UPDATES = 25


@dataclass(frozen=True)
class Case:
    """An engine, its batch size (None: all rows), threads (None: all it may use), and the rest."""

    engine: str
    batch_size: int | None
    threads: int | None = None
    optimizer: str = "sgd"
    activation: str = "relu"
    dropout: tuple[float, ...] = ()

    @property
    def batch(self) -> str:
        """The batch size in words."""
        return "full batch" if self.batch_size is None else f"batch {self.batch_size}"

    @property
    def specials(self) -> list[str]:
        """The differences from plain gradient descent with ReLU layers."""
        names = [self.optimizer, self.activation, "dropout" if self.dropout else "sgd"]
        return [name for name in names if name not in ("sgd", "relu")]

    def __str__(self) -> str:
        threads = "" if self.threads is None else f"-{self.threads}-thread"
        specials = "".join(f"-{name}" for name in self.specials)
        return f"{self.engine}{threads}{specials}-{self.batch.replace(' ', '-')}"


CASES = [
    case
    for batch_size in PROVEN_UPDATES
    for case in (
        Case("numba", batch_size),
        Case("numba", batch_size, threads=1),
        Case("numpy", batch_size),
    )
]
CASES += [Case("numba", 128, optimizer=name) for name in ("momentum", "adam", "adamw")]
CASES += [Case("numba", 128, activation=name) for name in ("tanh", "gelu")]
CASES += [Case("numba", 128, dropout=DROPOUT)]


class Trainer:
    """A case's engine and data, ready to train from the initial weights."""

    def __init__(self, case: Case, data: Dataset) -> None:
        network = Network(
            SIZES,
            activation=case.activation,
            dropout=case.dropout or 0.0,
            input_scale=data.scale,
            seed=SEED,
        )
        network.parameters = he_normal(LAYERS, SEED)
        self._prepare(network, case.engine, case.threads, data.x_train, data.y_train)
        self.batch_rows = case.batch_size or len(data.x_train)
        self.optimizer = get_optimizer(case.optimizer)

    def _prepare(
        self, network: Network, engine: str, threads: int | None, x: np.ndarray, y: np.ndarray
    ) -> None:
        self.network, self._initial = network, network.parameters
        self.engine = network.use_engine(engine, threads=threads)
        self._prepared = prepare(network, Plan(1, "full", OPTIMIZERS["sgd"], seed=SEED), x, y)
        self.data = self._prepared.training

    def reset(self) -> None:
        """Restore the initial weights, state and position."""
        self.network.parameters, self.network._position = self._initial, Position()
        self.engine.set_state([])

    def epoch(self) -> float:
        """Train for one epoch as `Network.fit` does; return its mean loss. This is timed."""
        plan = Plan(1, self.batch_rows, self.optimizer, seed=SEED)
        fit = Fit(self.network, self._prepared._replace(plan=plan))
        train(fit)
        self.network._position = Position()  # every round trains the first epoch
        return fit.history["loss"][0]

    def losses(self, updates: int) -> list[float]:
        """Train from the initial weights, one update per call; return the loss before each."""
        self.reset()
        losses: list[float] = []
        for number in count():
            order = permutation(SEED, number, len(self.data.x))
            rate, rule = self.optimizer.learning_rate, self.optimizer
            epoch = Epoch(self.data, order, self.batch_rows, rate, rule)
            progress = Progress()
            for _ in range(epoch.updates):
                if len(losses) == updates:
                    return losses
                before = progress
                progress = self.engine.run_chunk(epoch, before, self.batch_rows)
                rows = progress.position - before.position
                losses.append((progress.loss_sum - before.loss_sum) / rows)
        raise AssertionError("never reached")


def other(case: Case) -> Case:
    """Return the same case with the other engine."""
    engine = "numpy" if case.engine == "numba" else "numba"
    return replace(case, engine=engine, threads=None)


def proven(case: Case, data: Dataset) -> Trainer:
    """Return the case's trainer with its initial weights, if it agrees with the other engine.

    Raises
    ------
    AssertionError
        If a loss of the first updates, or of the first epoch, differs by more than rounding.
    """
    trainer, twin = Trainer(case, data), Trainer(other(case), data)
    updates, tolerance = PROVEN_UPDATES[case.batch_size], EPOCH_TOLERANCE
    if trainer.optimizer.rule == "adam":
        updates, tolerance = ADAM_UPDATES, ADAM_EPOCH_TOLERANCE
    elif trainer.optimizer.rule == "momentum":
        updates = MOMENTUM_UPDATES
    assert_close(trainer.losses(updates), twin.losses(updates), UPDATE_TOLERANCE)
    trainer.reset()
    twin.reset()
    assert_close([trainer.epoch()], [twin.epoch()], tolerance)
    trainer.reset()
    return trainer


def assert_close(losses: list[float], expected: list[float], tolerance: float) -> None:
    """Raise an AssertionError with the difference of the losses if it is too large."""
    pairs = zip(losses, expected, strict=True)
    apart = np.array([abs(got / want - 1) for got, want in pairs])
    if not (apart <= tolerance).all():  # a NaN is not
        first = int((~(apart <= tolerance)).argmax())
        raise AssertionError(
            f"loss {first + 1} of {len(losses)} is {losses[first]!r}, the other engine's is "
            f"{expected[first]!r}: {apart[first]:.1e} apart, where rounding allows {tolerance:g}"
        )
