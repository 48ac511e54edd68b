"""A multi-layer perceptron that tells classes apart."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils import column_or_1d, compute_class_weight
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import (
    check_classification_targets,
    type_of_target,
    unique_labels,
)

from fastnn.data.conversion import check_class_weight
from fastnn.estimators.base import BaseMLP
from fastnn.estimators.parameters import CONSTRAINTS
from fastnn.model.losses import LOSSES, Loss
from fastnn.model.schedules import Schedule
from fastnn.training.early_stopping import EarlyStopping
from fastnn.training.fit import Callback


class MLPClassifier(ClassifierMixin, BaseMLP):
    """Multi-layer perceptron classifier: scikit-learn's, on fastnn's engines.

    It minimises the log loss. All of scikit-learn's parameters, methods and attributes are here
    and mean the same. The arithmetic is in float32; weights and answers are float64 all the same,
    where X is not float32.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(100,)
        The width of each hidden layer.
    activation : {'identity', 'logistic', 'tanh', 'relu', 'leaky_relu', 'gelu'}, default='relu'
        The activation function of the hidden layers.
    solver : {'lbfgs', 'sgd', 'momentum', 'nesterov', 'adam', 'adamw'}, default='adam'
        The optimizer. 'sgd' has the momentum that `momentum` and `nesterovs_momentum` say;
        'momentum' and 'nesterov' are 'sgd' whatever the latter says. 'adamw' is 'adam' with
        `weight_decay`. 'lbfgs' takes all samples at once.
    alpha : float, default=0.0001
        Strength of the L2 penalty ``alpha / 2 * ||w||^2``, which the samples of a batch share.
        It holds for 'adamw' too: 0 leaves the weight decay alone.
    batch_size : int or 'auto', default='auto'
        Samples that an update learns from; 'auto' is ``min(200, n_samples)``. Not for 'lbfgs'.
    learning_rate : {'constant', 'invscaling', 'adaptive', 'cosine', 'one_cycle'} or \
            Schedule, default='constant'
        How the learning rate changes. 'invscaling' divides it by ``(t_ + 1) ** power_t`` when an
        epoch begins, 'adaptive' by 5 whenever training has stopped to improve; both do nothing
        to 'adam' and 'adamw', as in scikit-learn. 'cosine' and 'one_cycle' span `max_iter`
        epochs of any optimizer but 'lbfgs', and only early stopping ends them before. A
        `fastnn.Schedule` has a warm-up too, and always counts.
    learning_rate_init : float, default=0.001
        The learning rate to begin with. Not for 'lbfgs'.
    power_t : float, default=0.5
        The exponent of 'invscaling'.
    max_iter : int, default=200
        Epochs, at most; of 'lbfgs', iterations.
    shuffle : bool, default=True
        Whether to take the samples in another order every epoch.
    random_state : int, RandomState instance, default=None
        Decides the initial weights, which are scikit-learn's, the order of the samples, what
        is set aside for validation and what dropout drops. An int gives the same bits every
        time, on any number of threads.
    tol : float, default=1e-4
        Training ends once the loss, or with early stopping the validation score, has not
        improved by this for more than `n_iter_no_change` epochs. 'lbfgs' ends where no
        component of the gradient is larger.
    verbose : bool, default=False
        Whether to print the loss of every epoch.
    warm_start : bool, default=False
        Whether a further call of `fit` goes on where the last one ended, with the optimizer's
        state, or begins anew.
    momentum : float, default=0.9
        Momentum of 'sgd', 'momentum' and 'nesterov', from 0 to 1.
    nesterovs_momentum : bool, default=True
        Whether the momentum of 'sgd' is Nesterov's.
    early_stopping : bool or EarlyStopping, default=False
        Whether to set a fraction of the data aside, of every class alike, and to end once the
        score on it stops improving, with the weights of the best epoch. A `fastnn.EarlyStopping`
        says which figure is monitored ("val_score", "val_loss", "val_accuracy", "loss" or
        "accuracy"), the patience, the least improvement, and whether the best weights are
        restored, in place of `tol` and `n_iter_no_change`. True does nothing to 'lbfgs', as in
        scikit-learn.
    validation_fraction : float, default=0.1
        The fraction that is set aside where early stopping needs one and `fit` gets no data to
        validate on.
    beta_1, beta_2 : float, default=0.9 and 0.999
        How slowly Adam's means of the gradient and of its square decay, from 0 to below 1.
    epsilon : float, default=1e-8
        What Adam adds to the root of the latter.
    n_iter_no_change : int, default=10
        Epochs without improvement that are put up with.
    max_fun : int, default=15000
        How often 'lbfgs' may compute the loss.
    class_weight : dict, 'balanced' or None, default=None
        How much the samples of each class count: by label, or such that every class counts the
        same. Multiplied with `sample_weight`.
    weight_decay : float, default=None
        Decoupled weight decay of all optimizers but 'lbfgs'; None is 0.01 for 'adamw', else 0.
    weight_init : {'glorot_uniform', 'he_normal'}, default='glorot_uniform'
        How initial weights are drawn: as scikit-learn draws them, or normally with variance
        ``2 / fan_in`` and biases 0, which suits 'relu'.
    dropout : float or array-like of float, default=0.0
        The share of values that training sets to 0: of every hidden layer's outputs, or, of the
        input and then of each hidden layer.
    scoring : str, callable or None, default=None
        What "val_score" and `validation_scores_` measure: a scorer as scikit-learn has them;
        None is the accuracy.
    callbacks : list of Callback, default=None
        `fastnn.Callback`s that watch the fit; `set_callbacks` takes scikit-learn's own.
    engine : {'numba', 'numpy'}, default='numba'
        The fast engine or the reference.
    n_threads : int, default=None
        Threads of the Numba engine, at most; None is all that the process may use, and as few
        as are fastest.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels, or, of an indicator matrix, the numbers of its columns.
    loss_ : float
        The loss of the last epoch: the mean over its batches, each measured before its update.
    best_loss_ : float or None
        The lowest loss of an epoch; None with early stopping.
    loss_curve_ : list of float
        The loss of every epoch of every call.
    validation_scores_ : list of float or None
        The validation score after every epoch, if there was validation.
    best_validation_score_ : float or None
        The highest of them.
    history_ : dict of str to list of float
        All figures of every epoch, as `fastnn.Network.fit` names them.
    t_ : int
        The number of training samples seen; 'lbfgs' counts none.
    coefs_, intercepts_ : list of ndarray
        The weights (fan_in, fan_out) and biases (fan_out,) of each layer, float32 if X was,
        else (uint8, integers and float16 too) float64. Writing to one of these arrays is an
        error; putting another in its place is not, and predictions follow it. To callbacks they
        are those that the fit began with, until it ends; predictions are always up to date.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, if X had any that are all strings.
    n_iter_ : int
        Epochs, or iterations, of the last call.
    n_layers_ : int
        Number of layers, input and output among them.
    n_outputs_ : int
        Number of outputs.
    out_activation_ : str
        The activation function of the outputs.

    Notes
    -----
    Where it departs from scikit-learn: `warm_start` keeps the optimizer's state; the split for
    early stopping is stratified for more than two classes too; the loss of weighted samples is
    their weighted mean over the epoch; y of one class has one column of probabilities.

    Examples
    --------
    >>> from fastnn import MLPClassifier
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(engine="numpy", max_iter=1000, random_state=0).fit(X, y)
    >>> clf.predict(X[::50])
    array([0, 1, 2])
    >>> bool(clf.score(X, y) > 0.95)
    True
    """

    _parameter_constraints = CONSTRAINTS | {
        "class_weight": [None, dict, StrOptions({"balanced"})],
    }
    loss = "log_loss"

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str | Schedule = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool | EarlyStopping = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        class_weight: Mapping[Any, float] | str | None = None,
        weight_decay: float | None = None,
        weight_init: str = "glorot_uniform",
        dropout: float | Sequence[float] = 0.0,
        scoring: str | Callable[..., float] | None = None,
        callbacks: Sequence[Callback] | None = None,
        engine: str = "numba",
        n_threads: int | None = None,
    ) -> None:
        self._store(locals())

    def _objective(self) -> Loss:
        """Return the log loss of one output for two classes, of labels, or of classes."""
        is_softmax = not self._is_multilabel and len(self.classes_) != 2
        return LOSSES["cross_entropy" if is_softmax else "logistic"]

    def _encoded(self, y: Any, new: bool, incremental: bool, name: str = "y") -> np.ndarray:
        """Return class numbers (n,), or 0 and 1 (n, labels); learn the classes if the fit is new.

        For `partial_fit` they are set already.
        """
        if hasattr(y, "toarray"):  # a sparse indicator matrix
            y = y.toarray()
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        _check_objects(y, name)
        kind = type_of_target(y, input_name=name)
        if kind not in ("binary", "multiclass", "multilabel-indicator"):
            check_classification_targets(y)
            raise ValueError("Multioutput target data is not supported with label binarization")
        is_multilabel = y.ndim == 2
        if is_multilabel:
            present = np.arange(y.shape[1])
        else:  # words in objects come out as words
            present = unique_labels(y) if y.dtype == object else np.unique(y)
        if new:
            self._is_multilabel = is_multilabel
        if new and not incremental:
            self.classes_ = present
        elif not incremental and set(present) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous "
                f"call to fit. Previously got {self.classes_}, `y` has {present}"
            )
        elif len(np.setdiff1d(present, self.classes_)) or is_multilabel != self._is_multilabel:
            raise ValueError(
                "`y` has classes not in `self.classes_`. "
                f"`self.classes_` has {self.classes_}. 'y' has {present}."
            )
        return y if is_multilabel else np.searchsorted(self.classes_, y)

    def _decoded(self, targets: np.ndarray) -> np.ndarray:
        if self._is_multilabel:
            return targets.astype(np.int64)
        return self.classes_[targets.astype(np.intp).ravel()]

    def _class_weights(self, incremental: bool) -> Any:
        given = self.class_weight
        if given is None:
            return None
        if self._is_multilabel:
            raise ValueError("class_weight is not supported for multilabel targets.")
        if isinstance(given, str):
            if incremental:
                raise ValueError(
                    "class_weight 'balanced' is not supported for partial_fit. Use the weights "
                    "that compute_class_weight('balanced', classes=classes, y=y) gives for all of "
                    "y."
                )
            return given
        for label, weight in given.items():
            check_class_weight(label, weight)
        weights = compute_class_weight(given, classes=self.classes_, y=self.classes_)
        return dict(enumerate(weights))

    @available_if(BaseMLP._is_stochastic)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Update the model with a single iteration over the given data.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            The class labels.
        sample_weight : array-like of shape (n_samples,), default=None
            How much each sample counts, at least 0.
        classes : array-like of shape (n_classes,), default=None
            The classes of all calls, which need not all be in y. Required in the first call.

        Returns
        -------
        self : object
            The trained estimator.
        """
        if classes is not None:
            _check_objects(classes, "classes")
        return self._fit(X, y, sample_weight, incremental=True, classes=classes)

    def predict(self, X: Any) -> np.ndarray:
        """Predict the classes of samples.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_labels)
            The predicted classes.
        """
        outputs = self._predictions(X)
        is_softmax = self._objective().takes_labels
        return self._decoded(outputs.argmax(axis=1) if is_softmax else outputs > 0.5)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Estimate the probabilities of the classes.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.

        Returns
        -------
        y_prob : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`. Rows sum to 1, but for an indicator matrix, each of whose
            labels has a probability of its own.
        """
        outputs = self._predictions(X)
        if self._is_multilabel:
            return outputs
        if self._objective().takes_labels:  # whose sum is 1 in float32
            return outputs / outputs.sum(axis=1, keepdims=True)
        return np.hstack([1 - outputs, outputs])

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithm of the estimated probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.

        Returns
        -------
        log_y_prob : ndarray of shape (n_samples, n_classes)
            ``log(predict_proba(X))``.
        """
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def __sklearn_tags__(self) -> Any:
        """Say that several labels at once can be learned."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _check_objects(labels: Any, name: str) -> None:
    """Raise a ValueError that names the types in labels of dtype object, unless all are strings."""
    values = np.asarray(labels).ravel()
    if values.dtype != object or all(isinstance(value, str) for value in values):
        return
    examples: dict[str, str] = {}
    for row, value in enumerate(values):
        kind = type(value).__name__
        examples.setdefault(kind, f"{kind} ({repr(value)[:40]} at {row})")
    found = " and ".join([*examples.values()][:3])
    raise ValueError(
        f"Unknown label type: {name} has dtype object and holds {found}: labels must be all "
        "strings, or of a numeric dtype; convert them, for example with astype(int)"
    )
