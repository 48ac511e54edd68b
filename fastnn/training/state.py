"""Records of a fit: its checked arguments, its position, and snapshots.

A snapshot is a copy of a fit's state in memory. A checkpoint is a snapshot in a file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fastnn.data.rows import Data
from fastnn.epoch import Progress
from fastnn.model.layers import Dense, Parameters
from fastnn.model.losses import Loss
from fastnn.training.early_stopping import StoppingState
from fastnn.training.plan import Plan

History = dict[str, list[float]]


class Prepared(NamedTuple):
    """Checked data and settings of a fit, as `fastnn.training.preparation.prepare` returns them.

    Attributes
    ----------
    layers, loss
        Layers and loss of the network for which the data were checked.
    training : Data
    validation : Data or None
    plan : Plan
    warned : bool
        Whether the scale of the data has caused a warning.
    """

    layers: Sequence[Dense]
    loss: Loss
    training: Data
    validation: Data | None
    plan: Plan
    warned: bool


class Position(NamedTuple):
    """How far a network has been trained, over all fits.

    Attributes
    ----------
    epochs : int
        Completed epochs of all fits.
    samples : int
        Rows of these epochs.
    updates : int
        Updates since the optimizer's state was zero, including those of the running epoch.
    progress : Progress
        Progress within the running epoch. ``progress.position`` is the number of its rows up to
        the end of the last complete batch.
    seconds : float
        Training time of the running epoch.
    stopping : StoppingState
        State of early stopping or of an adaptive learning rate, between epochs.
    rate_divisor : float
        Divisor of the learning rate; an adaptive schedule increases it.
    stopped : str
        Why the fit ended before its last epoch: "converged" (a stopping rule was met), "stalled"
        (see `fastnn.training.lbfgs.minimize`) or "callback"; "" if it did not.
    """

    epochs: int = 0
    samples: int = 0
    updates: int = 0
    progress: Progress = Progress()
    seconds: float = 0.0
    stopping: StoppingState = StoppingState()
    rate_divisor: float = 1.0
    stopped: str = ""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """State of a fit at the end of a batch or between two epochs, sufficient to resume it.

    Attributes
    ----------
    start, position : Position
        Positions at the beginning of the fit and now.
    parameters : list of (w, b)
    state : list of list of (w, b)
        State of the optimizer: one list, shaped like the parameters, for each of its state arrays
        per parameter.
    best : list of (w, b), optional
        Weights of the best epoch, if early stopping restores them.
    history : dict of str to list of float
        Metrics of the completed epochs of this fit.
    callbacks : dict of str to dict of str to list of float
        `Callback.state` of each callback that has one, by the name of its class.
    """

    start: Position
    position: Position
    parameters: Parameters
    state: list[Parameters]
    best: Parameters | None
    history: History
    callbacks: dict[str, dict[str, list[float]]]

    @property
    def epochs(self) -> int:
        """Completed epochs of this fit."""
        return self.position.epochs - self.start.epochs
