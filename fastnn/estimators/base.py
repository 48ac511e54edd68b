"""Base class of MLPClassifier and MLPRegressor: a network with scikit-learn's interface."""

import math
import warnings
from dataclasses import replace
from operator import is_
from typing import Any, Self

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, _fit_context, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import _check_partial_fit_first_call
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastnn.data.conversion import as_features, check_unmasked
from fastnn.engine import Engine, usable_threads
from fastnn.errors import DataError, DivergenceError
from fastnn.estimators.exchange import ExchangeMixin
from fastnn.estimators.fitting import (
    CallbackSupportMixin,
    Recorder,
    Run,
    Tasks,
    one_at_a_time,
    report_end,
    score_of,
    weight_attributes,
    with_callbacks,
)
from fastnn.estimators.parameters import (
    CONSTRAINTS,
    callbacks_of,
    new_network_of,
    plan_of,
    stopping_rule_of,
    structure_of,
)
from fastnn.estimators.summary import summary_of
from fastnn.model.layers import dense_layers
from fastnn.model.losses import Loss
from fastnn.system.memory import check_copy
from fastnn.training.checkpoint import has_checkpoint
from fastnn.training.early_stopping import StoppingState
from fastnn.training.fit import Callback
from fastnn.training.preparation import prepare

_DTYPES = [np.float64, np.float32, np.uint8]  # other dtypes are converted to float64
_ARRAYS = ("X", "y", "sample_weight", "X_val", "y_val", "sample_weight_val")
# Of the last fit, for the next partial_fit: monitored metric, stopping state, divisor of the rate.
_NEW_STOPPING = ("", StoppingState(), 1.0)

_CLIPPED = "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped"
_DIVERGED = (
    "Solver produced non-finite parameter weights. The input data may contain large values and "
    "need to be preprocessed."
)


class BaseMLP(ExchangeMixin, CallbackSupportMixin, BaseEstimator):
    """Base class of multi-layer perceptrons with scikit-learn's interface.

    `coefs_` and `intercepts_` are copies of the network's weights, in read-only arrays. Assigning
    other arrays to these attributes changes the network.
    """

    _parameter_constraints = CONSTRAINTS

    n_iter_: int
    t_: int
    loss_: float
    loss_curve_: list[float]
    history_: dict[str, list[float]]
    validation_scores_: list[float] | None
    best_validation_score_: float | None

    def _store(self, given: dict[str, Any]) -> None:
        """Set the parameters of a constructor, given its `locals()`."""
        self.__dict__.update({name: value for name, value in given.items() if name != "self"})

    # ---- for subclasses ---------------------------------------------------------------------

    def _objective(self) -> Loss:
        """Return the loss."""
        raise NotImplementedError

    def _encoded(self, y: np.ndarray, new: bool, incremental: bool, name: str = "y") -> np.ndarray:
        """Return targets in the form of `fastnn.data.conversion`; a new fit sets `classes_`."""
        raise NotImplementedError

    def _decoded(self, targets: np.ndarray) -> np.ndarray:
        """Return encoded targets in their original form."""
        raise NotImplementedError

    def _class_weights(self, incremental: bool) -> Any:
        """Return the weights of the classes by their numbers, "balanced" or None."""
        return None

    # ---- training ---------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    @with_callbacks
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Fit the model to data matrix X and target(s) y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data. Arrays of uint8 and sparse matrices in CSR format are not converted.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The target values: class labels, an indicator matrix of labels, or numbers.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each sample, at least 0.
        X_val, y_val : array-like, default=None
            Data to evaluate after each epoch, instead of the fraction of the data that early
            stopping would set aside.
        sample_weight_val : array-like of shape (n_val_samples,), default=None
            Weight of each of these samples.

        Returns
        -------
        self : object
            The trained estimator.

        Raises
        ------
        ValueError
            If a parameter or the data are invalid, or if the weights become non-finite.
        """
        return self._fit(X, y, sample_weight, X_val, y_val, sample_weight_val)

    @one_at_a_time
    def _fit(self, *data: Any, incremental: bool = False, classes: Any = None) -> Self:
        """Train with the data that `fit` takes, in its order."""
        before, run, tasks = dict(vars(self)), None, None
        try:
            run = self._prepared(*data, incremental=incremental, classes=classes)
            if not incremental and getattr(self, "_skl_callbacks", None):
                tasks = Tasks(self, *data[:3])
            self._train(run, tasks, incremental)
        except BaseException:
            if run is None or not run.recorder.has_begun:  # a fit that never began changes nothing
                self.__dict__.clear()
                self.__dict__.update(before)
            raise
        if tasks is not None:
            tasks.end()
        return self

    def _prepared(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        *validation_data: Any,
        incremental: bool,
        classes: Any,
    ) -> Run:
        """Check the arguments of a fit; create a network, unless training continues."""
        if incremental and self.early_stopping:
            raise ValueError(f"partial_fit does not support early_stopping={self.early_stopping!r}")
        if incremental and is_classifier(self):
            _check_partial_fit_first_call(self, classes)
        for name, values in zip(_ARRAYS, (X, y, sample_weight, *validation_data), strict=False):
            check_unmasked(values, name)
        callbacks = callbacks_of(self)
        if incremental and has_checkpoint(callbacks):
            raise ValueError(
                "partial_fit does not support Checkpoint: save the model between calls"
            )
        continues = incremental or self.warm_start
        new = not (continues and "_network" in vars(self))
        X, y = self._checked(X, y, new)
        targets = self._encoded(y, new, incremental)
        if new:
            dtype = np.float32 if X.dtype == np.float32 else np.float64
            self._begin(X.shape[1], self._n_outputs_of(targets), dtype, keep=continues)
        else:
            self._continue(X.shape[1], self._n_outputs_of(targets))
        own = self._own_validation(*validation_data)
        rule = stopping_rule_of(self)
        sets_aside = own is None and rule is not None and rule.monitor.startswith("val_")
        score_name = ""
        if own is not None or sets_aside:
            score_name = f"val_{self._objective().score}" if self.scoring is None else "val_score"
        if rule is not None and rule.monitor == "val_score" and score_name:
            rule = replace(rule, monitor=score_name)
        try:
            prepared = prepare(
                self._network, plan_of(self, rule, incremental), X, targets,
                self._checked_weight(sample_weight, X),
                class_weight=self._class_weights(incremental), validation_data=own,
                validation_fraction=self.validation_fraction * sets_aside,
                scored=score_name == "val_score", warn=new or not incremental,
            )  # fmt: skip
        except DataError:
            self._raise_if_not_finite(X, "X")
            if own is not None:
                self._raise_if_not_finite(own[0], "X_val")
            raise
        rows, validation = len(prepared.training.x), prepared.validation
        if sets_aside and validation is not None and len(validation.x) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' "
                "or the size of your dataset."
            )
        if self.batch_size != "auto" and self.batch_size > rows:
            warnings.warn(_CLIPPED, stacklevel=2)
        if score_name and self.validation_scores_ is None:
            self.validation_scores_, self.best_validation_score_ = [], -math.inf
        score = None
        if validation is not None and score_name == "val_score":
            score = score_of(self, validation)
        self._engine()
        return Run(prepared, score, Recorder(self, score_name), callbacks)

    def _checked(self, X: Any, y: Any, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return X and y after scikit-learn's checks, without the check that X is finite."""
        if isinstance(X, np.ndarray) and X.dtype not in _DTYPES:
            check_copy("X", X.size, 8)
        return validate_data(
            self, X, y, reset=reset, accept_sparse="csr", dtype=_DTYPES, ensure_all_finite=False,
            multi_output=True, y_numeric=not is_classifier(self),
        )  # fmt: skip

    def _checked_weight(self, weight: Any, X: np.ndarray) -> np.ndarray | None:
        """Return sample weights after scikit-learn's checks, or None."""
        if weight is None:
            return None
        return _check_sample_weight(weight, X, ensure_non_negative=True)

    def _n_outputs_of(self, targets: np.ndarray) -> int:
        if self._objective().takes_labels:
            return len(self.classes_)
        return 1 if targets.ndim == 1 else targets.shape[1]

    def _raise_if_not_finite(self, X: np.ndarray, name: str) -> None:
        """Raise scikit-learn's error if features are not finite in float32."""
        values: Any = X.data if issparse(X) else X
        assert_all_finite(values, estimator_name=type(self).__name__, input_name=name)
        with np.errstate(over="ignore"):
            if not np.isfinite(values.astype(np.float32)).all():
                raise ValueError(
                    f"Input {name} contains infinity or a value too large for dtype('float32')."
                )

    def _begin(self, inputs: int, outputs: int, dtype: Any, keep: bool) -> None:
        """Create a network, and reset the fitted attributes.

        With `keep`, the network gets the weights in `coefs_` and `intercepts_`, if they are set.
        """
        given = None
        if keep and hasattr(self, "coefs_"):
            given = list(zip(self.coefs_, self.intercepts_, strict=True))
        self._network = new_network_of(self, inputs, outputs, given)
        self._dtype, self._stopping = np.dtype(dtype), _NEW_STOPPING
        self.n_layers_, self.n_outputs_ = len(self._network.layers) + 1, outputs
        self.out_activation_ = self._network.loss.link
        self.t_, self.loss_, self.loss_curve_, self.history_ = 0, math.nan, [], {}
        self.best_loss_ = None if self.early_stopping else math.inf
        self.validation_scores_ = self.best_validation_score_ = None
        self._update_coefs()

    def _continue(self, inputs: int, outputs: int) -> None:
        """Check that the network's structure is unchanged, and apply new `coefs_`."""
        structure = structure_of(self, inputs, outputs)
        network = self._network
        if (dense_layers(**structure), self._objective()) != (network.layers, network.loss):
            raise ValueError(
                "warm_start and partial_fit continue with the same network: the number of outputs, "
                "hidden_layer_sizes, activation, dropout and loss cannot change"
            )
        self._update_network()

    def _own_validation(
        self, X: Any = None, y: Any = None, weight: Any = None
    ) -> tuple[Any, Any, Any] | None:
        """Return the validation data passed to `fit`, checked and encoded, or None."""
        if (X is None) != (y is None):
            raise ValueError("X_val and y_val must be given together.")
        if X is None:
            return None
        X, y = self._checked(X, y, False)
        targets = self._encoded(y, new=False, incremental=True, name="y_val")
        return X, targets, self._checked_weight(weight, X)

    def _train(self, run: Run, tasks: Callback | None, incremental: bool) -> None:
        """Train, update the fitted attributes, and report how training ended."""
        rule = run.prepared.plan.early_stopping
        monitor = "" if rule is None else rule.monitor
        before = self._stopping if self._stopping[0] == monitor else _NEW_STOPPING
        self._stopping = _NEW_STOPPING  # stays if an exception ends the fit
        self.n_iter_ = 0
        callbacks = [run.recorder, *run.callbacks, *([tasks] if tasks else [])]
        try:
            fit = self._network._train(
                run.prepared, callbacks=callbacks, score=run.score, stopping=before[1],
                rate_divisor=before[2],
            )  # fmt: skip
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=2)
            return
        except DivergenceError as error:
            if not run.recorder.keeps_best:
                raise ValueError(f"{_DIVERGED} ({error})") from error
            text = f"{_DIVERGED} The weights of the best epoch are kept."
            warnings.warn(text, ConvergenceWarning, stacklevel=2)
            return
        finally:
            self._update_coefs()
        self._stopping = (monitor, fit.position.stopping, fit.position.rate_divisor)
        if not incremental:
            report_end(self, fit.position.stopped, rule)

    def _is_stochastic(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError(
                "partial_fit is only available for stochastic optimizers. lbfgs is not stochastic."
            )
        return True

    # ---- the network and its attributes -----------------------------------------------------

    def _engine(self) -> Engine:
        """Return the engine, with at most as many threads as the process may use."""
        threads = None
        if self.n_threads is not None and self.engine == "numba":
            threads = min(self.n_threads, usable_threads())
        return self._network.use_engine(self.engine, threads=threads)

    def _update_coefs(self) -> None:
        """Set `coefs_` and `intercepts_` to the network's weights."""
        self.__dict__.update(weight_attributes(self._network, self._dtype))

    def _update_network(self) -> None:
        """Set the network's weights to `coefs_` and `intercepts_` if these were replaced."""
        arrays = (*self.coefs_, *self.intercepts_)
        if len(arrays) != len(self._copies) or not all(map(is_, arrays, self._copies)):
            self._network.parameters = list(zip(self.coefs_, self.intercepts_, strict=True))

    def __sklearn_tags__(self) -> Any:
        """Return tags that allow sparse features."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def summary(self) -> str:
        """Print the layers of the fitted network and its number of parameters.

        Returns
        -------
        text : str
            The printed text.
        """
        check_is_fitted(self, "_network")
        text = summary_of(self._network)
        print(text)
        return text

    # ---- prediction -------------------------------------------------------------------------

    def _predictions(self, X: Any) -> np.ndarray:
        """Return the network's predictions (n, O), in the wider dtype of X and `coefs_`."""
        if "_network" not in vars(self):
            check_is_fitted(self, "_network")
        is_plain = (  # skip scikit-learn's checks, which take 40 µs
            type(X) is np.ndarray
            and X.ndim == 2
            and X.shape[1] == self.n_features_in_
            and len(X) > 0
            and X.dtype.char in "fdB"
            and "feature_names_in_" not in vars(self)
        )
        if not is_plain:
            check_unmasked(X, "X")
            X = validate_data(self, X, reset=False, accept_sparse="csr", ensure_all_finite=False)
        self._update_network()
        try:
            outputs = self._engine().predict(as_features(X, X.shape[1], finite=False))
        except DataError:
            self._raise_if_not_finite(X, "X")
            raise
        return outputs.astype(np.result_type(X.dtype, self._dtype), copy=False)
