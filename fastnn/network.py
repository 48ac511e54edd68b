"""The front door: a network that is fitted, asked and evaluated."""

import math
from collections.abc import Sequence
from operator import index
from typing import Any, Literal

import numpy as np

from fastnn.callbacks import Callback
from fastnn.engine import Engine, get_engine
from fastnn.initializers import he_normal
from fastnn.inputs import as_features, as_labels
from fastnn.layers import Parameters, dense_layers
from fastnn.optimizers import LARGEST_FLOAT, Optimizer, check_setting, get_optimizer
from fastnn.randomness import SEED_LIMIT
from fastnn.training import History, fit


class Network:
    """A fully connected classifier: ReLU layers, then softmax.

    Parameters
    ----------
    sizes : sequence of int
        Input width, hidden widths, number of classes.
    input_scale : float, default 1.0
        Features are multiplied by this on their way in: 1/255 for images in bytes.
    seed : int, default 0
        Decides the initial weights and the order of the samples, and so the whole result.

    Attributes
    ----------
    layers : tuple of Dense
        Shapes and activations.
    epochs_trained : int
        Epochs completed by all calls of `fit` so far.

    Raises
    ------
    ValueError
        If a size, the scale or the seed is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import Network
    >>> x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    >>> net = Network([2, 16, 2], seed=0)
    >>> history = net.fit(x, [0, 1, 1, 0], epochs=200, batch_size="full", learning_rate=0.5)
    >>> net.predict(x).tolist()
    [0, 1, 1, 0]
    """

    def __init__(self, sizes: Sequence[int], *, input_scale: float = 1.0, seed: int = 0) -> None:
        self.layers = dense_layers(sizes)
        self.input_scale = _positive(input_scale, "input_scale")
        self.seed = _whole(seed, "seed", low=0)
        if self.seed >= SEED_LIMIT:
            raise ValueError(f"seed must be below 2**64, got {seed!r}")
        self.epochs_trained = 0
        self._parameters = he_normal(self.layers, self.seed)
        # Of the optimizer that trained last: its rule, its state slot by slot, its updates so far.
        self._rule, self._updates = "", 0
        self._state: list[Parameters] = []
        self._engine: Engine | None = None
        self._engine_choice: tuple[str, int | None] = ("numba", None)

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def parameters(self) -> Parameters:
        """Per layer ``(w, b)``: weights (I, O) and biases (O,), float32; copies."""
        return [(w.copy(), b.copy()) for w, b in self._parameters]

    @parameters.setter
    def parameters(self, parameters: Parameters) -> None:
        if len(parameters) != len(self.layers):
            raise ValueError(f"expected {len(self.layers)} layers, got {len(parameters)}")
        fresh = [(np.array(w, np.float32), np.array(b, np.float32)) for w, b in parameters]
        for i, (layer, (w, b)) in enumerate(zip(self.layers, fresh, strict=True)):
            if w.shape != (layer.inputs, layer.outputs) or b.shape != (layer.outputs,):
                raise ValueError(
                    f"layer {i} takes weights {(layer.inputs, layer.outputs)} and biases "
                    f"{(layer.outputs,)}, got {w.shape} and {b.shape}"
                )
        self._parameters = fresh
        if self._engine is not None:
            self._engine.set_parameters(fresh)

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        epochs: int = 20,
        batch_size: int | Literal["full"] = 128,
        optimizer: str | Optimizer = "sgd",
        learning_rate: float | None = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
        l2: float = 0.0,
        engine: str = "numba",
        threads: int | None = None,
        validation_data: tuple[Any, Any] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> History:
        """Train by gradient descent on the mean categorical cross-entropy of each batch.

        A further call goes on where the last one ended, the optimizer's state included as long
        as its rule is the same.

        Parameters
        ----------
        x : array (rows, inputs)
            Features. uint8 is kept as it is; other real dtypes are computed as float32.
        y : array (rows,)
            Class numbers from 0.
        epochs : int, default 20
        batch_size : int or "full", default 128
            Rows that one update learns from; more than there are is the same as "full".
        optimizer : {"sgd", "momentum", "nesterov", "adam", "adamw"} or Optimizer, default "sgd"
            `fastnn.optimizers` has the equations.
        learning_rate, momentum, weight_decay : float, optional
            Replace the optimizer's own: 0.1 for "sgd", 0.01 with momentum, 0.001 for "adam" and
            "adamw"; momentum 0.9; no weight decay, but 0.01 for "adamw".
        l2 : float, default 0
            ``l2 / 2 · Σ w²`` over all weights, but no biases, is added to the mean loss.
        engine : {"numba", "numpy"}, default "numba"
            The fast engine or the reference.
        threads : int, optional
            For the Numba engine; by default all that the process may use. The result has the
            same bits for any number.
        validation_data : (x, y), optional
            Evaluated after every epoch.
        callbacks : sequence of Callback

        Returns
        -------
        dict of str to list of float
            An item an epoch: ``loss`` and ``accuracy``, the means over the epoch's batches, each
            measured before its update; ``seconds``, training alone; and with validation data
            ``val_loss`` and ``val_accuracy``, measured after the epoch.

        Raises
        ------
        ValueError
            If a setting is out of range.
        DataError
            If the data do not fit the network or are not finite.
        DivergenceError
            If the loss or a weight stops being finite; the last finite weights are kept.
        """
        epochs = _whole(epochs, "epochs", low=1)
        chosen = get_optimizer(
            optimizer, learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay
        )
        check_setting("l2", l2)
        features, labels = self._checked(x, y, "x", "y")
        rows = len(features)
        if batch_size != "full":
            rows = min(rows, _whole(batch_size, "batch_size", low=1))
        validation = None
        if validation_data is not None:
            if len(validation_data) != 2:
                raise ValueError("validation_data must be a pair (x, y)")
            validation = self._checked(*validation_data, "validation x", "validation y")
        running = self.use_engine(engine, threads=threads)
        if self._rule != chosen.rule:
            self._rule, self._state, self._updates = chosen.rule, [], 0
        running.set_state(self._state)
        done = _Counter(len(features), rows)
        try:
            return fit(
                running,
                features,
                labels,
                first_epoch=self.epochs_trained,
                epochs=epochs,
                batch_size=rows,
                optimizer=chosen,
                l2=float(l2),
                updates_before=self._updates,
                seed=self.seed,
                validation_data=validation,
                callbacks=(done, *callbacks),
            )
        finally:  # an interrupted fit keeps what it has learned
            self.epochs_trained += done.epochs
            self._updates += done.updates
            self._parameters = running.get_parameters()
            self._state = running.get_state(chosen.slots)

    def evaluate(self, x: Any, y: Any) -> tuple[float, float]:
        """Return the mean loss and the accuracy on these data.

        Raises
        ------
        DataError
            If the data do not fit the network or are not finite.
        """
        return self._current_engine().evaluate(*self._checked(x, y, "x", "y"))

    def predict(self, x: Any) -> np.ndarray:
        """Return the most probable class of each row, (rows,) int64."""
        return self.predict_proba(x).argmax(axis=1)

    def predict_proba(self, x: Any) -> np.ndarray:
        """Return class probabilities (rows, classes) float32; each row sums to 1.

        Raises
        ------
        DataError
            If the features do not fit the network or are not finite.
        """
        return self._current_engine().predict(as_features(x, self.layers[0].inputs, finite=False))

    def use_engine(self, name: str, *, threads: int | None = None) -> Engine:
        """Move the network to an engine, which is built on first use, and return it."""
        if threads is not None:
            threads = _whole(threads, "threads", low=1)
        if self._engine is None or self._engine_choice != (name, threads):
            engine = get_engine(name, self.layers, input_scale=self.input_scale, threads=threads)
            engine.set_parameters(self._parameters)
            self._engine, self._engine_choice = engine, (name, threads)
        return self._engine

    def _current_engine(self) -> Engine:
        return self._engine or self.use_engine("numba")

    def _checked(self, x: Any, y: Any, x_name: str, y_name: str) -> tuple[np.ndarray, np.ndarray]:
        features = as_features(x, self.layers[0].inputs, x_name)
        return features, as_labels(y, len(features), self.layers[-1].outputs, y_name)


class _Counter(Callback):
    """Counts completed epochs, and updates, so that an interrupted fit knows them."""

    def __init__(self, rows: int, batch_size: int) -> None:
        self._rows, self._batch_size = rows, batch_size
        self.epochs = self._before = self._in_epoch = 0

    @property
    def updates(self) -> int:
        """Updates that have been seen."""
        return self._before + self._in_epoch

    def on_chunk_end(self, epoch: int, rows: int) -> None:
        whole = rows == self._rows  # the last batch may be short
        self._in_epoch = -(-rows // self._batch_size) if whole else rows // self._batch_size

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        self.epochs += 1
        self._before, self._in_epoch = self.updates, 0


def _whole(value: Any, name: str, *, low: int) -> int:
    """Return a setting as an int of at least `low`, or raise a ValueError that names it."""
    try:
        number = index(value)
    except TypeError:
        number = None
    if number is None or number < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}")
    return number


def _positive(value: Any, name: str) -> float:
    """Return a setting as a float that float32 can hold, or raise a ValueError that names it."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (0 < number <= LARGEST_FLOAT and np.float32(number) > 0) or isinstance(value, str):
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return number
