"""The front door: a network that is fitted, asked and evaluated."""

import math
from collections.abc import Sequence
from dataclasses import replace
from operator import index
from typing import Any, Literal

import numpy as np

from fastnn.batches import Data
from fastnn.callbacks import Callback
from fastnn.early_stopping import EarlyStopping
from fastnn.engine import Engine, get_engine
from fastnn.initializers import initial_parameters
from fastnn.inputs import as_data, as_features, split
from fastnn.layers import Parameters, dense_layers
from fastnn.losses import get_loss
from fastnn.optimizers import LARGEST_FLOAT, Optimizer, check_setting, get_optimizer
from fastnn.randomness import SEED_LIMIT
from fastnn.schedules import Schedule
from fastnn.training import Counter, History, Outcome, Plan, Score, fit, r2


class Network:
    """A fully connected network: by default a classifier of ReLU layers, then softmax.

    Parameters
    ----------
    sizes : sequence of int
        Input width, hidden widths, number of outputs: for "cross_entropy" one a class.
    activation : str or sequence of str, default "relu"
        "identity", "logistic", "tanh", "relu", "leaky_relu" or "gelu": of all hidden layers, or
        one of each.
    loss : str, default "cross_entropy"
        "cross_entropy" over classes; "logistic" for one or several labels that are 0 or 1;
        "squared_error", "poisson", "absolute_error" or "huber" for numbers. `fastnn.losses` has
        the formulas.
    dropout : float or sequence of float, default 0
        The share of values that training sets to 0: of every hidden layer's outputs, or, of the
        input and then of each hidden layer.
    input_scale : float, default 1.0
        Features are multiplied by this on their way in: 1/255 for images in bytes.
    seed : int, default 0
        Decides the initial weights (He's; Glorot's where all hidden layers saturate), the order
        of the samples and what dropout drops, and so the whole result.

    Attributes
    ----------
    layers : tuple of Dense
        Shapes, activations and dropout.
    loss : Loss
    epochs_trained : int
        Epochs completed by all calls of `fit` so far.

    Raises
    ------
    ValueError
        If there is no such activation or loss, or a setting is out of range.

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

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str | Sequence[str] = "relu",
        loss: str = "cross_entropy",
        dropout: float | Sequence[float] = 0.0,
        input_scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.layers = dense_layers(sizes, activation, dropout)
        self.loss = get_loss(loss)
        self.input_scale = _positive(input_scale, "input_scale")
        self.seed = _whole(seed, "seed", low=0)
        if self.seed >= SEED_LIMIT:
            raise ValueError(f"seed must be below 2**64, got {seed!r}")
        self.epochs_trained = 0
        self._parameters = initial_parameters(self.layers, self.seed)
        self._samples = 0  # that all epochs so far took
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
        schedule: str | Schedule = "constant",
        l2: float = 0.0,
        clip_norm: float = 0.0,
        shuffle: bool = True,
        sample_weight: Any = None,
        class_weight: Any = None,
        validation_data: tuple[Any, ...] | None = None,
        validation_fraction: float = 0.0,
        early_stopping: EarlyStopping | None = None,
        engine: str = "numba",
        threads: int | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> History:
        """Train by gradient descent on the mean loss of each batch.

        A further call goes on where the last one ended, the optimizer's state included as long
        as its rule is the same.

        Parameters
        ----------
        x : array (rows, inputs)
            Features. uint8 is kept as it is; other real dtypes are computed as float32.
        y : array (rows,) or (rows, outputs)
            Class numbers from 0 for "cross_entropy", else what the outputs should be.
        epochs : int, default 20
        batch_size : int or "full", default 128
            Rows that one update learns from; more than there are is the same as "full".
        optimizer : {"sgd", "momentum", "nesterov", "adam", "adamw", "lbfgs"} or Optimizer
            `fastnn.optimizers` has the equations. "lbfgs" takes all rows at once, and an epoch
            is one of its iterations.
        learning_rate, momentum, weight_decay : float, optional
            Replace the optimizer's own: 0.1 for "sgd", 0.01 with momentum, 0.001 for "adam" and
            "adamw"; momentum 0.9; no weight decay, but 0.01 for "adamw".
        schedule : {"constant", "invscaling", "adaptive", "cosine", "one_cycle"} or Schedule
            How the learning rate changes over the epochs of this call; a
            `fastnn.schedules.Schedule` has the linear warm-up too.
        l2 : float, default 0
            ``l2 / 2 · Σ w²`` over all weights, but no biases, is added to the mean loss.
        clip_norm : float, default 0
            A batch's gradient that is longer than this is shortened to it; 0 for never.
        shuffle : bool, default True
            Take the rows in another order every epoch.
        sample_weight : array (rows,), optional
            How much each row counts.
        class_weight : dict or "balanced", optional
            How much the rows of each class count; "balanced": every class the same.
        validation_data : (x, y) or (x, y, sample_weight), optional
            Evaluated after every epoch.
        validation_fraction : float, default 0
            Without validation data: the share of the rows, drawn by the seed and of every class
            alike, that are kept from training and evaluated after every epoch.
        early_stopping : EarlyStopping, optional
            End before the last epoch once a figure of the history stops improving.
        engine : {"numba", "numpy"}, default "numba"
            The fast engine or the reference.
        threads : int, optional
            For the Numba engine; by default all that the process may use. The result has the
            same bits for any number.
        callbacks : sequence of Callback

        Returns
        -------
        dict of str to list of float
            An item an epoch: ``loss``, and for classifiers ``accuracy``, the means over the
            epoch's batches, each measured before its update (and with dropout);
            ``learning_rate``, that of its last update; ``seconds``, training alone; and with
            validation data ``val_loss`` and ``val_accuracy`` or, of a regression, ``val_r2``,
            measured after the epoch.

        Raises
        ------
        ValueError
            If a setting is out of range.
        DataError
            If the data do not fit the network or are not finite.
        DivergenceError
            If the loss or a weight stops being finite; the last finite weights are kept.
        """
        chosen = get_optimizer(
            optimizer, learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay
        )
        check_setting("l2", l2)
        check_setting("clip_norm", clip_norm)
        plan = Plan(
            epochs=_whole(epochs, "epochs", low=1),
            batch_size=0 if batch_size == "full" else _whole(batch_size, "batch_size", low=1),
            optimizer=chosen,
            schedule=schedule if isinstance(schedule, Schedule) else Schedule(schedule),
            l2=float(l2),
            clip_norm=float(clip_norm),
            shuffle=bool(shuffle),
            seed=self.seed,
            early_stopping=early_stopping,
        )
        data = self._checked(x, y, sample_weight, class_weight)
        validation = None
        if validation_data is not None:
            if not 2 <= len(validation_data) <= 3:
                raise ValueError("validation_data must be (x, y) or (x, y, sample_weight)")
            val_x, val_y, val_weight = (*validation_data, None)[:3]
            validation = self._checked(val_x, val_y, val_weight, name="validation ")
        elif validation_fraction:
            data, validation = split(data, validation_fraction, self.loss, self.seed)
        self._check_monitor(early_stopping, validation)
        self.use_engine(engine, threads=threads)
        return self.train(data, plan, validation=validation, callbacks=callbacks).history

    def train(
        self,
        data: Data,
        plan: Plan,
        *,
        validation: Data | None = None,
        callbacks: Sequence[Callback] = (),
        score: Score | None = None,
    ) -> Outcome:
        """Train as a plan says, on data that are checked, with the engine that is in use.

        What `fit` does behind the door. The plan's batch size is cut to the rows there are, 0
        standing for all of them; its counts are those of this network.
        """
        if plan.optimizer.rule == "lbfgs":
            drops = any(layer.dropout for layer in self.layers)
            if drops or plan.clip_norm or plan.optimizer.weight_decay:
                raise ValueError("lbfgs goes without dropout, clip_norm and weight_decay")
        running = self._current_engine()
        rows = len(data.x)
        if self._rule != plan.optimizer.rule:
            self._rule, self._state, self._updates = plan.optimizer.rule, [], 0
        plan = replace(
            plan,
            batch_size=min(plan.batch_size or rows, rows),
            first_epoch=self.epochs_trained,
            updates_before=self._updates,
            samples_before=self._samples,
        )
        running.set_state(self._state)
        done = Counter(rows, plan.batch_size)
        watching = (done, *callbacks)
        try:
            return fit(
                running, data, plan,
                loss=self.loss, validation=validation, callbacks=watching, score=score,
            )  # fmt: skip
        finally:  # an interrupted fit keeps what it has learned
            self.epochs_trained += done.epochs
            self._updates += done.updates
            self._samples += done.epochs * rows
            self._parameters = running.get_parameters()
            self._state = running.get_state(plan.optimizer.slots)

    def evaluate(self, x: Any, y: Any, sample_weight: Any = None) -> tuple[float, float]:
        """Return the mean loss on these data, and the accuracy or, of a regression, R².

        Raises
        ------
        DataError
            If the data do not fit the network or are not finite.
        """
        data = self._checked(x, y, sample_weight)
        loss, accuracy = self._current_engine().evaluate(data)
        if self.loss.score == "accuracy":
            return loss, accuracy
        return loss, r2(self._current_engine().predict(data.x), data)

    def predict(self, x: Any) -> np.ndarray:
        """Return what the network says of each row.

        Returns
        -------
        ndarray
            For "cross_entropy" the most probable class, (rows,) int64; for "logistic" 0 or 1,
            int64, and for a regression the values, float32: (rows,) if there is one output,
            else (rows, outputs).
        """
        outputs = self._outputs(x)
        if self.loss.takes_labels:
            return outputs.argmax(axis=1)
        if self.loss.link == "logistic":
            outputs = (outputs > 0.5).astype(np.int64)
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs

    def predict_proba(self, x: Any) -> np.ndarray:
        """Return probabilities (rows, outputs) float32; of classes, each row sums to 1.

        Raises
        ------
        DataError
            If the features do not fit the network or are not finite.
        ValueError
            If the network is a regression.
        """
        if self.loss.score != "accuracy":
            raise ValueError(f"a network with loss {self.loss.name!r} predicts no probabilities")
        return self._outputs(x)

    def _outputs(self, x: Any) -> np.ndarray:
        return self._current_engine().predict(as_features(x, self.layers[0].inputs, finite=False))

    def use_engine(self, name: str, *, threads: int | None = None) -> Engine:
        """Move the network to an engine, which is built on first use, and return it."""
        if threads is not None:
            threads = _whole(threads, "threads", low=1)
        if self._engine is None or self._engine_choice != (name, threads):
            engine = get_engine(
                name, self.layers, self.loss, input_scale=self.input_scale, threads=threads
            )
            engine.set_parameters(self._parameters)
            self._engine, self._engine_choice = engine, (name, threads)
        return self._engine

    def _current_engine(self) -> Engine:
        name, threads = self._engine_choice
        return self._engine or self.use_engine(name, threads=threads)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the engine behind, its buffers and locks: a copy, or a pickle, builds another."""
        return self.__dict__ | {"_engine": None}

    def _checked(
        self, x: Any, y: Any, sample_weight: Any = None, class_weight: Any = None, name: str = ""
    ) -> Data:
        """Bring data into the form that engines take."""
        sizes = self.layers[0].inputs, self.layers[-1].outputs
        return as_data(x, y, *sizes, self.loss, sample_weight, class_weight, name)

    def _check_monitor(self, rule: EarlyStopping | None, validation: Data | None) -> None:
        if rule is None:
            return
        score = "accuracy" if self.loss.score == "accuracy" else "r2"
        figures = ["loss"] + (["accuracy"] if score == "accuracy" else [])
        figures += [] if validation is None else ["val_loss", f"val_{score}"]
        if rule.monitor not in figures:
            hint = "; for more, give validation data" if validation is None else ""
            raise ValueError(
                f"early stopping monitors one of {', '.join(figures)} here, "
                f"got {rule.monitor!r}{hint}"
            )


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
