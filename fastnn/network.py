"""The public `Network`: training, prediction, evaluation and storage of a network."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from fastnn.data.conversion import as_data, as_features, as_parameters
from fastnn.engine import Engine, get_engine, usable_threads
from fastnn.model.initializers import initial_parameters
from fastnn.model.layers import Parameters, dense_layers, parameters_sha256
from fastnn.model.losses import get_loss
from fastnn.model.optimizers import Optimizer, get_optimizer
from fastnn.model.randomness import SEED_LIMIT
from fastnn.model.schedules import Schedule
from fastnn.model.settings import check_integer, check_setting
from fastnn.storage.model_file import model_from_network, write_model
from fastnn.storage.onnx_export import network_graph, write_onnx
from fastnn.system.files import FilePath
from fastnn.system.forks import FitLock, setup_lock
from fastnn.training.checkpoint import has_checkpoint
from fastnn.training.early_stopping import EarlyStopping
from fastnn.training.evaluation import evaluate
from fastnn.training.fit import Callback, Fit
from fastnn.training.loop import train
from fastnn.training.memory import check_fit_memory
from fastnn.training.plan import Plan
from fastnn.training.preparation import prepare
from fastnn.training.scale import warn_of_scale
from fastnn.training.state import History, Position, Prepared


class Network:
    """A fully connected network. By default it is a classifier with ReLU layers and softmax output.

    Parameters
    ----------
    sizes : sequence of int
        Number of inputs, widths of the hidden layers (there may be none), number of outputs. With
        "cross_entropy" there is one output per class.
    activation : str or sequence of str, default "relu"
        "identity", "logistic", "tanh", "relu", "leaky_relu" or "gelu": one name for all hidden
        layers, or a list with one name per hidden layer.
    loss : str, default "cross_entropy"
        "cross_entropy" for classes; "logistic" for one or several labels that are 0 or 1;
        "squared_error", "poisson", "absolute_error" or "huber" for numbers. The formulas are in
        `fastnn.model.losses`.
    dropout : float or sequence of float, default 0
        Probability with which training sets a value to 0. One number applies to the outputs of
        every hidden layer, but not to the features. A list has one number for the features and
        one for the outputs of each hidden layer.
    input_scale : float, default 1.0
        Factor by which all features are multiplied, for example 1/255 for images in bytes.
    seed : int, default 0
        Determines the initial weights, the order of the samples and the dropout masks, and so
        the result. The weights are Glorot-initialised if all hidden activations are identity,
        logistic or tanh, and He-initialised otherwise.

    Attributes
    ----------
    layers : tuple of Dense
        Shapes, activations and dropout rates.
    loss : Loss

    Raises
    ------
    ValueError
        If an activation or the loss is unknown, or a setting is out of range.

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
        check_setting("input_scale", input_scale)
        self.input_scale = float(input_scale)
        self.seed = check_integer(seed, "seed", low=0)
        if self.seed >= SEED_LIMIT:
            raise ValueError(f"seed must be below 2**64, got {seed!r}")
        self._parameters: Parameters | None = None  # drawn at the first use
        self._position = Position()
        self._rule, self._slots = "", 0  # of the last optimizer; slots: state arrays per parameter
        self._state: list[Parameters] = []  # of the last optimizer, until an engine holds it
        self._engine: Engine | None = None
        self._engine_choice: tuple[str, int | None] = ("numba", None)
        self._training = FitLock()

    @property
    def epochs_trained(self) -> int:
        """Number of epochs that all calls of `fit` have completed."""
        return self._position.epochs

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def parameters(self) -> Parameters:
        """Copies of the weights (I, O) and biases (O,) of each layer, ``(w, b)``, float32."""
        if self._engine is not None:
            return self._engine.get_parameters()
        if self._parameters is None:
            self._parameters = initial_parameters(self.layers, self.seed)
        return [(w.copy(), b.copy()) for w, b in self._parameters]

    @parameters.setter
    def parameters(self, parameters: Parameters) -> None:
        fresh = as_parameters(parameters, self.layers)
        if self._engine is not None:
            self._engine.set_parameters(fresh)
        self._parameters = fresh

    def weights_sha256(self) -> str:
        """Return the SHA-256 of each layer's w, then b, as little-endian float32: 64 hex digits.

        Examples
        --------
        >>> Network([4, 8, 3], seed=0).weights_sha256()
        '0a303bf7709d2e7d34384f099a163cc737708cd793911254113f695745b66891'
        """
        return parameters_sha256(self.parameters)

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        epochs: int = 20,
        batch_size: int | Literal["full"] | None = None,
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
        early_stopping: EarlyStopping | bool | None = False,
        engine: str = "numba",
        threads: int | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> History:
        """Train by gradient descent on the mean loss of each batch.

        Another call continues from the trained weights, and with the optimizer's state if the
        optimizer has the same rule. If the scale of the features or targets keeps the network from
        learning, there is a warning (scikit-learn's ConvergenceWarning).

        Parameters
        ----------
        x : array (rows, inputs)
            Features: a NumPy array or a SciPy sparse matrix. uint8 is not converted; other real
            dtypes are computed as float32.
        y : array (rows,) or (rows, outputs)
            Class numbers from 0 for "cross_entropy", else the targets of the outputs.
        epochs : int, default 20
        batch_size : int or "full", optional
            Rows per update, by default 128. "full" and numbers above the number of rows mean all
            rows. "lbfgs" always uses all rows.
        optimizer : {"sgd", "momentum", "nesterov", "adam", "adamw", "lbfgs"} or Optimizer
            `fastnn.Optimizer` documents the equations. With "lbfgs" an epoch is one iteration.
        learning_rate, momentum, weight_decay : float, optional
            Replace the optimizer's defaults: learning rate 0.1 for "sgd", 0.01 for "momentum" and
            "nesterov", 0.001 for "adam" and "adamw"; momentum 0.9; weight decay 0, or 0.01 for
            "adamw".
        schedule : {"constant", "invscaling", "adaptive", "cosine", "one_cycle"} or Schedule
            Change of the learning rate over the epochs of this call. A `fastnn.Schedule` may have
            a warm-up. "adaptive" ends the fit when training stops improving at a rate of 1e-6 or
            less.
        l2 : float, default 0
            Factor of the penalty ``l2 / 2 · Σ w²``, which is added to the mean loss. The sum is
            over all weights, without biases.
        clip_norm : float, default 0
            Largest norm of a batch's gradient; a longer gradient is scaled to it. 0 for no limit.
        shuffle : bool, default True
            Whether each epoch visits the rows in a new random order, which
            `fastnn.model.randomness.permutation` describes.
        sample_weight : array (rows,), optional
            Weight of each row in the loss, at least 0.
        class_weight : dict or "balanced", optional
            Weight of the rows of each class; "balanced" gives all classes the same total weight.
        validation_data : (x, y) or (x, y, sample_weight), optional
            Data to evaluate after each epoch.
        validation_fraction : float, default 0
            Fraction of the rows to set aside as validation data; the seed determines which. The
            split is stratified by class where possible.
        early_stopping : bool or EarlyStopping, default False
            Whether to stop when a metric of the history no longer improves. True needs validation
            data or a validation fraction: it monitors ``val_loss`` and restores the weights of the
            best epoch. ``EarlyStopping("loss")`` needs neither.
        engine : {"numba", "numpy"}, default "numba"
            The fast engine, or the reference engine in NumPy.
        threads : int, optional
            Threads of the Numba engine. A given number is always used. By default the engine uses
            up to all threads that the process may use, and fewer for little work. The result is
            bit-identical for any number.
        callbacks : sequence of Callback

        Returns
        -------
        dict of str to list of float
            The history: one list per metric, with one number per epoch of this call.

            - ``loss`` and, for classifiers, ``accuracy``: means over the batches. Each batch is
              evaluated with dropout, before its update. The loss includes the penalty.
            - ``learning_rate``: rate of the last update; missing for "lbfgs".
            - ``seconds``: training time.
            - ``val_loss`` and ``val_accuracy`` or, for a regression, ``val_r2``: metrics of the
              validation data after the epoch, if there are any. The loss excludes the penalty.

        Raises
        ------
        ValueError
            If a setting is out of range.
        DataError
            If the data do not fit the network or are not finite.
        DivergenceError
            If the loss or a weight stops being finite; the last finite weights are kept.
        RuntimeError
            If the network is already being trained, by another thread or because a callback called
            `fit`; or if a callback is in use by another running fit.
        """
        optimizer = get_optimizer(
            optimizer, learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay
        )
        plan = Plan(
            epochs, batch_size, optimizer, schedule, early_stopping=early_stopping,  # type: ignore
            l2=l2, clip_norm=clip_norm, shuffle=shuffle, seed=self.seed,
        )  # fmt: skip
        prepared = prepare(
            self, plan, x, y, sample_weight, class_weight=class_weight,
            validation_data=validation_data, validation_fraction=validation_fraction,
        )  # fmt: skip
        self.use_engine(engine, threads=threads)
        return self._train(prepared, callbacks=callbacks).history

    def _train(self, prepared: Prepared, **options: Any) -> Fit:
        """Train with the engine in use, and return the finished fit; `Fit` has the options.

        Raises
        ------
        TypeError
            If the data were not prepared for this network.
        """
        if type(prepared) is not Prepared or prepared[:2] != (self.layers, self.loss):
            raise TypeError("the data must come from `prepare`, for this network")
        with self._training:
            fit = Fit(self, prepared, **options)
            has_checkpoints = has_checkpoint(fit.callbacks)
            check_fit_memory(self.layers, fit.rows, fit.plan, checkpoints=has_checkpoints)
            train(fit)
            if not prepared.warned:
                warn_of_scale(fit)
            return fit

    def evaluate(self, x: Any, y: Any, sample_weight: Any = None) -> tuple[float, float]:
        """Return the mean loss on these data, and the accuracy or, for a regression, R².

        Raises
        ------
        DataError
            If the data do not fit the network or are not finite.
        """
        inputs, outputs = self.layers[0].inputs, self.layers[-1].outputs
        data = as_data(x, y, inputs, outputs, self.loss, sample_weight)
        return evaluate(self._current_engine(), data, self.loss)

    def predict(self, x: Any) -> np.ndarray:
        """Return the predictions for each row.

        Returns
        -------
        ndarray
            For "cross_entropy" the most probable class, (rows,) int64; for "logistic" 0 or 1,
            int64, and for a regression the values, float32: (rows,) for one output, else (rows,
            outputs).
        """
        outputs = self._outputs(x)
        if self.loss.takes_labels:
            return outputs.argmax(axis=1)
        if self.loss.link == "logistic":
            outputs = (outputs > 0.5).astype(np.int64)
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs

    def predict_proba(self, x: Any) -> np.ndarray:
        """Return probabilities (rows, outputs) float32; for classes, each row sums to 1.

        Raises
        ------
        DataError
            If the features do not fit the network or are not finite.
        ValueError
            If the network is a regression.
        """
        if self.loss.score != "accuracy":
            raise ValueError(f"loss {self.loss.name!r} has no probabilities; use predict")
        return self._outputs(x)

    def save(self, path: FilePath) -> None:
        """Write the network to a safetensors file, which `fastnn.load` reads.

        The file does not contain the optimizer's state: further training starts with a new one.

        Raises
        ------
        ModelFileError
            If a weight is not finite.
        """
        write_model(path, model_from_network(self))

    def to_onnx(self, path: FilePath) -> None:
        """Write an equivalent ONNX model, which `fastnn.storage.onnx_export` describes."""
        write_onnx(network_graph(self), path)

    def _outputs(self, x: Any) -> np.ndarray:
        return self._current_engine().predict(as_features(x, self.layers[0].inputs, finite=False))

    def use_engine(self, name: str, *, threads: int | None = None) -> Engine:
        """Move the network to an engine, and return the engine.

        Raises
        ------
        ValueError
            If there is no such engine, or `threads` is out of range.
        MemoryError
            If the engine does not fit into memory.
        RuntimeError
            If the network is being trained, with a different engine or number of threads.
        """
        if threads is not None:
            threads = check_integer(threads, "threads", low=1)
        with setup_lock:
            if self._engine is None or self._engine_choice != (name, threads):
                self._training.check()
                options: Any = {"input_scale": self.input_scale, "threads": threads}
                engine = get_engine(name, self.layers, self.loss, **options)
                engine.set_parameters(self.parameters)
                engine.set_state(self._current_state())
                self._engine, self._engine_choice = engine, (name, threads)
            return self._engine

    def _current_state(self) -> list[Parameters]:
        return self._engine.get_state(self._slots) if self._engine else self._state

    def _current_engine(self) -> Engine:
        if self._engine is not None:
            return self._engine
        name, threads = self._engine_choice  # a pickle may come from a machine with more threads
        return self.use_engine(name, threads=threads and min(threads, usable_threads()))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy or a pickle, which creates its own engine."""
        own: dict[str, Any] = {"_training": FitLock(), "_engine": None}
        own |= {"_parameters": self.parameters, "_state": self._current_state()}
        return self.__dict__ | own
